"""What an answer of an embeddings API holds: as many vectors as inputs, in order, finite, of one width."""

from __future__ import annotations

import base64

import msgspec
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Item(msgspec.Struct):
    """A vector of an answer."""

    embedding: str | list[float]
    index: int = -1


class Answer(msgspec.Struct):
    """An answer's body."""

    data: list[Item]


DECODER = msgspec.json.Decoder(Answer)


def vectors_of(body: bytes, inputs: int) -> Vectors | None:
    """Return an answer's vectors, ``[inputs, dimensions]``; ``None`` if it is wrong in any way."""
    try:
        items = DECODER.decode(body).data
        rows = [vector_of(item) for item in items]
    except (msgspec.DecodeError, ValueError):
        return None
    if len(items) != inputs or any(item.index != index for index, item in enumerate(items)):
        return None
    if len({len(row) for row in rows}) != 1:
        return None
    vectors = np.stack(rows)
    return vectors if np.isfinite(vectors).all() and vectors.any(axis=1).all() else None


def vector_of(item: Item) -> Vectors:
    """Decode either form of a vector."""
    if isinstance(item.embedding, str):
        return np.frombuffer(base64.b64decode(item.embedding), dtype="<f4")
    return np.array(item.embedding, dtype=np.float32)


def cosines(one: Vectors, other: Vectors) -> NDArray[np.float64]:
    """Return the cosine of each row of the one with each row of the other."""
    return unit(one) @ unit(other).T


def unit(vectors: Vectors) -> NDArray[np.float64]:
    """Scale each row to unit length."""
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)  # type: ignore[no-any-return]
