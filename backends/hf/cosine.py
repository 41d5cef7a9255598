"""How near vectors are to each other, row by row."""

from __future__ import annotations

import numpy as np

from embeddings_gateway.backends.base import Vectors


def cosines(ours: Vectors, theirs: Vectors) -> Vectors:
    """Return the cosine of each pair of rows; NaN where one is zero or not finite.

    Args:
        ours, theirs: float32 ``[inputs, dimensions]``.

    Returns:
        float32 ``[inputs]``.
    """
    products = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((ours * theirs).sum(axis=1) / products)
