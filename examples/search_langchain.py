"""Semantic search over a folder of text files with LangChain, whose embeddings come from the gateway.

    pip install langchain-openai
    python examples/search_langchain.py examples/data/hut "Can I bring my pet?"

``make serve`` starts the gateway. Prints the paragraphs nearest to the question, with cosine and file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Semantic search over a folder of text files.")
    parser.add_argument("folder", type=Path, help="its *.txt files are searched")
    parser.add_argument("question")
    parser.add_argument("--results", type=int, default=3)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    return parser.parse_args()


def paragraphs(folder: Path) -> Iterator[Document]:
    """Return the paragraphs of all text files, which are separated by empty lines."""
    for path in sorted(folder.glob("*.txt")):
        for text in path.read_text(encoding="utf-8").split("\n\n"):
            if text.strip():
                yield Document(page_content=text.strip(), metadata={"source": path.name})


def main() -> None:
    """Embed all paragraphs, then the question, and print what is nearest to it."""
    asked = options()
    embeddings = OpenAIEmbeddings(
        base_url=asked.base_url,
        api_key="not-needed",
        model=asked.model,
        # Sends the texts themselves. Otherwise LangChain downloads OpenAI's vocabulary and sends token ids of
        # that, which the gateway understands only where its extra cl100k is installed.
        check_embedding_ctx_length=False,
        # What is too long for the model is averaged over windows; the gateway's default is an error.
        model_kwargs={"extra_body": {"truncate": "mean"}},
    )
    store = InMemoryVectorStore(embeddings)
    store.add_documents(list(paragraphs(asked.folder)))
    for document, cosine in store.similarity_search_with_score(asked.question, k=asked.results):
        print(f"{cosine:.3f}  {document.metadata['source']}: {document.page_content}")


if __name__ == "__main__":
    main()
