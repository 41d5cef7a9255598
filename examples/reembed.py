"""Move a table of texts to the gateway's vectors, and search in it. See moving.md for why that has to be.

    pip install openai numpy
    python examples/reembed.py app.db
    python examples/reembed.py app.db --search "How do I get my money back?"

``make serve`` starts the gateway. ``app.db`` is a SQLite database with a table

    CREATE TABLE texts (id TEXT PRIMARY KEY, text TEXT NOT NULL, vector BLOB, space TEXT)

where ``vector`` is float32, as bytes, and ``space`` names the embedding space that it lives in. Rows of
another space than the gateway's are embedded again, each batch in a transaction of its own: this may be
interrupted, and goes on when it is run again. When all rows are done, it embeds nothing.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys

import numpy as np
from openai import APIStatusError, OpenAI
from openai.types import Embedding


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Move a table of texts to the gateway's vectors.")
    parser.add_argument("database")
    parser.add_argument("--search", metavar="QUESTION", help="search, and embed nothing else")
    parser.add_argument("--batch", type=int, default=100, help="rows of a request, and of a transaction")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    return parser.parse_args()


class Gateway:
    """Vectors of one embedding space: the gateway answers a request that expects another one with 412."""

    def __init__(self, base_url: str, model: str) -> None:
        self._client, self._model = OpenAI(base_url=base_url, api_key="not-needed"), model

    def space(self) -> str:
        """Return the space of the model as it is now; an alias has the space of its model."""
        card = self._client.models.retrieve(self._model)
        if card.fingerprint is None:
            raise SystemExit(f"The model is {card.state}: run this again when it is ready.")
        return card.fingerprint

    def embed(self, texts: list[str], role: str, space: str) -> list[np.ndarray | None]:
        """Return the vectors of texts, in their order, or ``None`` for one that cannot be embedded."""
        answer = self._client.embeddings.create(
            model=self._model,
            input=texts,
            # A long text gets the average of its parts, and an impossible one, such as "", fails alone.
            extra_body={"input_type": role, "truncate": "mean", "partial": True},
            extra_headers={"x-expected-space": space},
        )
        return [vector_of(item) for item in answer.data]


def vector_of(item: Embedding) -> np.ndarray | None:
    """Return the vector of an entry, or ``None`` if its text is at fault; end if the gateway is."""
    if item.embedding is not None:
        return np.array(item.embedding, np.float32)
    if item.error["type"] != "invalid_request_error" and item.error["code"] != "input_failed":
        raise SystemExit(f"Run this again later: {item.error['message']}")
    return None


def reembed(database: sqlite3.Connection, gateway: Gateway, batch: int) -> None:
    """Embed the rows of other spaces again. A text that cannot be embedded has no vector afterwards."""
    space, done = gateway.space(), 0
    (total,) = database.execute("SELECT count(*) FROM texts WHERE space IS NOT ?", [space]).fetchone()
    select = "SELECT id, text FROM texts WHERE space IS NOT ? LIMIT ?"
    update = "UPDATE texts SET vector = ?, space = ? WHERE id = ? AND text = ?"  # not if it was edited since
    while rows := database.execute(select, [space, batch]).fetchall():
        vectors = gateway.embed([text for _, text in rows], "document", space)
        with database:  # a transaction
            for (key, text), vector in zip(rows, vectors, strict=True):
                if vector is None:
                    print(f"{key} cannot be embedded", file=sys.stderr)
                stored = None if vector is None else vector.tobytes()
                database.execute(update, [stored, space, key, text])
        done += len(rows)
        print(f"{done} of {total} rows", file=sys.stderr)
    print(f"{done} rows were embedded; all are of space {space} now")


def search(database: sqlite3.Connection, gateway: Gateway, question: str) -> None:
    """Print the three texts nearest to a question."""
    spaces = [space for (space,) in database.execute("SELECT DISTINCT space FROM texts")]
    if len(spaces) != 1:
        raise SystemExit(f"The rows are of {len(spaces)} spaces: run it without --search first.")
    [vector] = gateway.embed([question], "query", spaces[0])
    rows = database.execute("SELECT id, text, vector FROM texts WHERE vector IS NOT NULL").fetchall()
    cosines = np.stack([np.frombuffer(row[2], np.float32) for row in rows]) @ vector  # all of length 1
    for place in np.argsort(-cosines)[:3]:
        print(f"{cosines[place]:.3f}  {rows[place][0]}: {rows[place][1]}")


def main() -> None:
    """Embed again, or search."""
    asked = options()
    gateway = Gateway(asked.base_url, asked.model)
    database = sqlite3.connect(f"file:{asked.database}?mode=rw", uri=True)  # never a new one
    try:
        if asked.search is None:
            reembed(database, gateway, asked.batch)
        else:
            search(database, gateway, asked.search)
    except APIStatusError as error:
        if error.code != "embedding_space_mismatch":
            raise
        raise SystemExit(f"The model is not that of the rows: run this without --search. {error}") from None


if __name__ == "__main__":
    main()
