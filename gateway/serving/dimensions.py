"""PURE: the head of a vector, for models whose vectors may be cut (Matryoshka embeddings)."""

from __future__ import annotations

import numpy as np

from embeddings_gateway.backends.base import Vectors


def cut(vectors: Vectors, dimensions: int, normalized: bool) -> Vectors:
    """Return the first ``dimensions`` columns, renormalised where the model's vectors have unit length.

    Args:
        vectors: float32 ``[inputs, width]``.
        dimensions: columns to keep.
        normalized: whether the model's vectors have unit length.

    Returns:
        float32 ``[inputs, dimensions]``; a row of which nothing but zeros is left is NaN.
    """
    kept = vectors[:, :dimensions]
    if normalized:
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = kept / np.linalg.norm(kept, axis=1, keepdims=True)
    return np.ascontiguousarray(kept, dtype=np.float32)
