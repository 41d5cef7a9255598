"""PURE: the result for many texts, and a report on its vectors: norms, near-duplicates, outliers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Vectors
from embeddings_gateway.errors import GatewayError

MAX_COMPARED = 20_000
"""Rows that are compared with each other. All pairs of more rows would take minutes."""

BLOCK = 1024
MAX_PAIRS = 100
DEVIATIONS = 5.0
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
MIN_DEVIATION = 0.01  # if nearly all vectors are the same, small differences make no outlier


class Quality(NamedTuple):
    """A report on the vectors of some texts.

    Attributes:
        failed: number of texts without a vector.
        norm_min, norm_mean, norm_max: lengths of the vectors; NaN if there are no vectors.
        non_finite: vectors with NaN or infinity; the gateway lets none through.
        compared: vectors that the following fields are about: all, or an even sample of a great many.
        near_duplicates: the first hundred pairs of texts whose vectors are nearly the same.
        near_duplicate_pairs: number of such pairs.
        outliers: texts whose vectors point elsewhere: their cosine to the mean is more than five deviations
            below the median.
        truncated: number of texts that were cut.
        averaged: number of texts whose vectors are averages of several windows.
    """

    texts: int
    failed: int
    dimensions: int
    norm_min: float
    norm_mean: float
    norm_max: float
    non_finite: int
    compared: int
    near_duplicates: list[tuple[int, int]]
    near_duplicate_pairs: int
    outliers: list[int]
    truncated: int = 0
    averaged: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.texts} texts, {self.failed} failed, {self.truncated} cut, {self.averaged} averaged\n"
            f"{self.dimensions} dimensions, norms {self.norm_min:.4f} to {self.norm_max:.4f}, "
            f"{self.non_finite} not finite\n"
            f"of {self.compared}: {self.near_duplicate_pairs} pairs nearly the same, "
            f"{len(self.outliers)} outliers\n"
            f"{self.tokens} tokens, {self.tokens_per_s:.0f} a second"
        )


class Embeddings(NamedTuple):
    """The vectors of texts, in the order of the texts.

    Attributes:
        vectors: float32 ``[texts, dimensions]``; row ``i`` belongs to text ``i``. Rows of failed texts are NaN.
        errors: text -> why it has no vector; empty unless ``partial`` was asked for.
        model: name of the model.
        space: fingerprint of the embedding space. Never compare vectors of two spaces.
        prompt: name of the prompt that was put before the texts, if one was.
        tokens: number of tokens that the model saw, special tokens included.
        truncated: texts that were cut.
        averaged: texts whose vectors are averages of several windows.
        seconds: how long it took.
    """

    vectors: Vectors
    errors: Mapping[int, GatewayError]
    model: str
    space: str
    prompt: str | None
    tokens: int
    truncated: Sequence[int]
    averaged: Sequence[int]
    seconds: float

    def quality(self, near: float = 0.99) -> Quality:
        """Examine the vectors: what a person would look at before storing them.

        Args:
            near: the least cosine of two vectors that are near-duplicates.
        """
        return examine(self.vectors, self.errors, near)._replace(
            truncated=len(self.truncated),
            averaged=len(self.averaged),
            tokens=self.tokens,
            tokens_per_s=self.tokens / self.seconds if self.seconds else 0.0,
        )


def examine(vectors: Vectors, failed: Collection[int], min_cosine: float) -> Quality:
    """Return the report on vectors.

    Args:
        vectors: float32 ``[texts, dimensions]``.
        failed: texts without a vector.
        min_cosine: the least cosine of two vectors that are near-duplicates.
    """
    present = np.setdiff1d(np.arange(len(vectors)), list(failed))
    finite = present[np.isfinite(vectors[present]).all(axis=1)]
    norms = np.linalg.norm(vectors[finite].astype(np.float64), axis=1)
    nonzero = finite[norms > 0]
    sample = nonzero[:: -(-len(nonzero) // MAX_COMPARED) or 1]
    unit = vectors[sample] / np.linalg.norm(vectors[sample], axis=1, keepdims=True)
    count, pairs = near_pairs(unit, min_cosine)
    return Quality(
        texts=len(vectors),
        failed=len(failed),
        dimensions=vectors.shape[1],
        norm_min=float(norms.min()) if len(norms) else np.nan,
        norm_mean=float(norms.mean()) if len(norms) else np.nan,
        norm_max=float(norms.max()) if len(norms) else np.nan,
        non_finite=len(present) - len(finite),
        compared=len(sample),
        near_duplicates=[(int(sample[first]), int(sample[second])) for first, second in pairs],
        near_duplicate_pairs=count,
        outliers=sample[outliers(unit)].tolist(),
    )


def near_pairs(unit: Vectors, min_cosine: float) -> tuple[int, list[tuple[int, int]]]:
    """Return the number of pairs of rows that are near-duplicates, and the first hundred of them."""
    count = 0
    pairs: list[tuple[int, int]] = []
    for begin in range(0, len(unit), BLOCK):
        is_near = np.triu(unit[begin : begin + BLOCK] @ unit[begin:].T >= min_cosine, 1)  # each pair once
        count += int(np.count_nonzero(is_near))
        for row in np.flatnonzero(is_near.any(axis=1)):
            if len(pairs) == MAX_PAIRS:
                break
            columns = np.flatnonzero(is_near[row])[: MAX_PAIRS - len(pairs)]
            pairs += [(begin + int(row), begin + int(column)) for column in columns]
    return count, pairs


def outliers(unit: Vectors) -> NDArray[np.intp]:
    """Return the rows whose cosine to the mean is far below the median, of float32 ``[n, d]``."""
    if len(unit) < 3:
        return np.empty(0, np.intp)
    cosines = unit @ unit.mean(axis=0)
    median = np.median(cosines)
    deviation = MAD_TO_DEVIATION * np.median(np.abs(cosines - median))
    return np.flatnonzero(cosines < median - DEVIATIONS * max(deviation, MIN_DEVIATION))
