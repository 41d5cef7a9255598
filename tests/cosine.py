"""How far two sets of vectors agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Scale each row to unit length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lowest_cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the cosine of the two rows, at the same place, that agree the least."""
    assert one.shape == other.shape
    return float((unit(one.astype(np.float64)) * unit(other.astype(np.float64))).sum(1).min())
