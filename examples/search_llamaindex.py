"""Semantic search over a folder of text files with LlamaIndex, whose embeddings come from the gateway.

    pip install llama-index-embeddings-openai-like
    python examples/search_llamaindex.py examples/data/hut "Can I bring my pet?"

``make serve`` starts the gateway. Prints the paragraphs nearest to the question, with cosine and file.
No language model takes part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai_like import OpenAILikeEmbedding


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Semantic search over a folder of text files.")
    parser.add_argument("folder", type=Path, help="its *.txt files are searched")
    parser.add_argument("question")
    parser.add_argument("--results", type=int, default=3)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    return parser.parse_args()


def paragraphs(folder: Path) -> Iterator[TextNode]:
    """Return the paragraphs of all text files, which are separated by empty lines."""
    for path in sorted(folder.glob("*.txt")):
        for text in path.read_text(encoding="utf-8").split("\n\n"):
            if text.strip():
                yield TextNode(
                    text=text.strip(),
                    metadata={"source": path.name},
                    excluded_embed_metadata_keys=["source"],  # else LlamaIndex embeds the file's name too
                )


def main() -> None:
    """Embed all paragraphs, then the question, and print what is nearest to it."""
    asked = options()
    embedding = OpenAILikeEmbedding(  # OpenAIEmbedding refuses names that are none of OpenAI's models
        model_name=asked.model,
        api_base=asked.base_url,
        api_key="not-needed",
        embed_batch_size=100,  # LlamaIndex's own default is 10 texts a request
        # What is too long for the model is averaged over windows; the gateway's default is an error.
        additional_kwargs={"extra_body": {"truncate": "mean"}},
    )
    index = VectorStoreIndex(list(paragraphs(asked.folder)), embed_model=embedding)
    for found in index.as_retriever(similarity_top_k=asked.results).retrieve(asked.question):
        print(f"{found.score:.3f}  {found.metadata['source']}: {found.text}")


if __name__ == "__main__":
    main()
