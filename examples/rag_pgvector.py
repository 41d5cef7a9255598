"""Retrieval-augmented generation over a folder of text files, with PostgreSQL and pgvector.

    pip install openai sqlalchemy pgvector "psycopg[binary]"
    docker run --detach --publish 5432:5432 --env POSTGRES_PASSWORD=secret pgvector/pgvector:pg17
    python examples/rag_pgvector.py examples/data/hut "Can I bring my pet?"

``make serve`` starts the gateway. Embeds the paragraphs of the files, finds those nearest to the question,
and prints the prompt for a language model; with ``--chat-base-url`` and ``--chat-model`` asks one (with the
key in ``OPENAI_API_KEY``, if it needs one). The next run embeds only paragraphs that are new or changed, or
all of them if the gateway's model is another than before.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

import sqlalchemy as sql
from openai import OpenAI
from pgvector.sqlalchemy import Vector

BATCH = 100
INSTRUCTION = "Answer the question from these paragraphs alone, and name their numbers."


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Answer a question from a folder of text files.")
    parser.add_argument("folder", type=Path, help="its *.txt files are read")
    parser.add_argument("question")
    parser.add_argument("--results", type=int, default=3)
    parser.add_argument("--database", default="postgresql+psycopg://postgres:secret@127.0.0.1/postgres")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--chat-base-url")
    parser.add_argument("--chat-model")
    return parser.parse_args()


class Embeddings:
    """Vectors from the gateway, all of one embedding space: that of the first."""

    def __init__(self, base_url: str, model: str) -> None:
        self._client, self._model = OpenAI(base_url=base_url, api_key="not-needed"), model
        self.space: str | None = None

    def __call__(self, texts: list[str], role: str) -> list[list[float]]:
        """Return vectors; the role is ``document`` or ``query``, which some models tell apart."""
        answer = self._client.embeddings.with_raw_response.create(
            model=self._model,
            input=texts,
            extra_body={"input_type": role, "truncate": "mean"},  # mean: a long text is no error
            extra_headers={"x-expected-space": self.space} if self.space else {},  # any other is error 412
        )
        self.space = answer.headers["x-embedding-space"]
        return [item.embedding for item in answer.parse().data]


def paragraphs(folder: Path) -> dict[str, dict[str, str]]:
    """Return the paragraphs of all text files, by a hash of file name and text."""
    found = {}
    for path in sorted(folder.glob("*.txt")):
        for text in path.read_text(encoding="utf-8").split("\n\n"):
            if text := text.strip():
                key = hashlib.sha256(f"{path.name}\n{text}".encode()).hexdigest()
                found[key] = {"hash": key, "source": path.name, "text": text}
    return found


def table_for(engine: sql.Engine, space: str, dimensions: int) -> sql.Table:
    """Return the table, emptied if its vectors are of another space: they cannot be compared."""
    table = sql.Table(
        "paragraphs",
        sql.MetaData(),
        sql.Column("hash", sql.Text, primary_key=True),
        *(sql.Column(name, sql.Text, nullable=False) for name in ("source", "text", "space")),
        sql.Column("vector", Vector(dimensions), nullable=False),
    )
    by_cosine = {"vector": "vector_cosine_ops"}  # of at most 2000 dimensions, for more see halfvec
    sql.Index("by_vector", table.c.vector, postgresql_using="hnsw", postgresql_ops=by_cosine)
    with engine.begin() as connection:
        connection.execute(sql.text("CREATE EXTENSION IF NOT EXISTS vector"))
        table.create(connection, checkfirst=True)
        if connection.scalar(sql.select(table.c.space).limit(1)) != space:
            table.drop(connection)
            table.create(connection)
    return table


def index(engine: sql.Engine, table: sql.Table, folder: Path, embed: Embeddings) -> None:
    """Make the table hold the folder's paragraphs: forget those that are gone, embed those that are new."""
    wanted = paragraphs(folder)
    with engine.begin() as connection:
        stored = set(connection.scalars(sql.select(table.c.hash)))
        connection.execute(sql.delete(table).where(table.c.hash.in_(stored - wanted.keys())))
    new = [row for key, row in wanted.items() if key not in stored]
    print(f"{len(new)} of {len(wanted)} paragraphs are new", file=sys.stderr)
    for begin in range(0, len(new), BATCH):
        batch = new[begin : begin + BATCH]
        vectors = embed([row["text"] for row in batch], "document")
        for row, vector in zip(batch, vectors, strict=True):
            row |= {"vector": vector, "space": embed.space}
        with engine.begin() as connection:
            connection.execute(sql.insert(table), batch)


def main() -> None:
    """Embed, find, and ask if there is somebody to ask."""
    asked = options()
    embed = Embeddings(asked.base_url, asked.model)
    [vector] = embed([asked.question], "query")
    engine = sql.create_engine(asked.database)
    table = table_for(engine, embed.space, len(vector))
    index(engine, table, asked.folder, embed)
    with engine.connect() as connection:
        nearest = sql.select(table).order_by(table.c.vector.cosine_distance(vector)).limit(asked.results)
        found = [f"[{at}] {row.source}: {row.text}" for at, row in enumerate(connection.execute(nearest), 1)]
    prompt = "\n\n".join([INSTRUCTION, *found, f"Question: {asked.question}"])
    print(prompt)
    if asked.chat_base_url and asked.chat_model:
        chat = OpenAI(base_url=asked.chat_base_url, api_key=os.environ.get("OPENAI_API_KEY", "not-needed"))
        messages = [{"role": "user", "content": prompt}]
        said = chat.chat.completions.create(model=asked.chat_model, messages=messages)
        print(f"\nAnswer: {said.choices[0].message.content}")


if __name__ == "__main__":
    main()
