"""PURE: inputs longer than the model, as windows of its length whose vectors are averaged.

The average is weighted by tokens of text and brought back to unit length, as OpenAI's cookbook and LangChain
do it in the client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from embeddings_gateway.backends.base import Vectors


class Averages(NamedTuple):
    """Which rows of a request's vectors are windows of which input.

    Attributes:
        places: row -> its input; ascending.
        weights: row -> its tokens of text.
    """

    places: list[int]
    weights: list[int]

    def add(self, place: int, weights: Sequence[int]) -> None:
        """Note the windows of the next input."""
        self.places.extend([place] * len(weights))
        self.weights.extend(weights)

    @property
    def inputs(self) -> list[int]:
        """Those of several windows, ascending."""
        return sorted({one for one, following in pairwise(self.places) if one == following})

    def slices(self) -> Iterator[slice]:
        """Return the rows of each input, in order."""
        end = 0
        for _, rows in groupby(self.places):
            begin, end = end, end + sum(1 for _ in rows)
            yield slice(begin, end)


def mean(windows: Vectors, weights: Sequence[int], normalized: bool) -> Vectors:
    """Return the weighted mean of some vectors.

    Args:
        windows: float32 ``[windows, dimensions]``.
        weights: of each window.
        normalized: whether it is brought to unit length.

    Returns:
        float32 ``[dimensions]``; NaN where the windows cancel out and it should have unit length.
    """
    total: Vectors = np.average(windows, axis=0, weights=weights).astype(np.float32)
    if not normalized:
        return total
    with np.errstate(divide="ignore", invalid="ignore"):
        unit: Vectors = total / np.linalg.norm(total)
    return unit
