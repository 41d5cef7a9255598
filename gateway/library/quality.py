"""PURE: what can be seen of vectors by looking at them: norms, near-duplicates, outliers."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Vectors

COMPARED_MAX = 20_000
"""Rows that are compared with each other: all pairs of more would take minutes."""

BLOCK = 1024
NAMED_MAX = 100
DEVIATIONS = 5.0
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
DEVIATION_MIN = 0.01  # among vectors that are nearly all the same, hardly different ones are no outliers


class Quality(NamedTuple):
    """What was found of the vectors of some texts.

    Attributes:
        texts: how many.
        failed: of these, without a vector.
        dimensions: of a vector.
        norm_min, norm_mean, norm_max: lengths of the vectors; NaN where there is none.
        non_finite: vectors that hold NaN or infinity; the gateway lets none through.
        compared: vectors that were looked at for what follows: all, or an even sample of a great many.
        near_duplicates: pairs of texts whose vectors are nearly the same; the first hundred.
        near_duplicate_pairs: how many such pairs there are.
        outliers: texts whose vectors point elsewhere than the others do: their cosine to the mean is more
            than five deviations below the median.
        truncated: texts that were cut.
        averaged: texts whose vectors are averages of several windows.
        tokens: of all texts.
        tokens_per_s: how fast that went.
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


def examine(vectors: Vectors, failed: Collection[int], near: float) -> Quality:
    """Look at vectors.

    Args:
        vectors: float32 ``[texts, dimensions]``.
        failed: texts without one.
        near: the least cosine of two that are nearly the same.
    """
    there = np.setdiff1d(np.arange(len(vectors)), list(failed))
    finite = there[np.isfinite(vectors[there]).all(axis=1)]
    norms = np.linalg.norm(vectors[finite].astype(np.float64), axis=1)
    directed = finite[norms > 0]
    sample = directed[:: -(-len(directed) // COMPARED_MAX) or 1]
    unit = vectors[sample] / np.linalg.norm(vectors[sample], axis=1, keepdims=True)
    pairs, named = near_pairs(unit, near)
    return Quality(
        texts=len(vectors),
        failed=len(failed),
        dimensions=vectors.shape[1],
        norm_min=float(norms.min(initial=np.inf)) if len(norms) else np.nan,
        norm_mean=float(norms.mean()) if len(norms) else np.nan,
        norm_max=float(norms.max(initial=0)) if len(norms) else np.nan,
        non_finite=len(there) - len(finite),
        compared=len(sample),
        near_duplicates=[(int(sample[one]), int(sample[other])) for one, other in named],
        near_duplicate_pairs=pairs,
        outliers=sample[outlying(unit)].tolist(),
    )


def near_pairs(unit: Vectors, near: float) -> tuple[int, list[tuple[int, int]]]:
    """Return how many pairs have a cosine of ``near`` or more, and the places of the first hundred."""
    pairs = 0
    named: list[tuple[int, int]] = []
    for begin in range(0, len(unit), BLOCK):
        alike = np.triu(unit[begin : begin + BLOCK] @ unit[begin:].T >= near, 1)  # each pair once
        pairs += int(np.count_nonzero(alike))
        for row in np.flatnonzero(alike.any(axis=1)):
            if len(named) == NAMED_MAX:
                break
            others = np.flatnonzero(alike[row])[: NAMED_MAX - len(named)]
            named += [(begin + int(row), begin + int(other)) for other in others]
    return pairs, named


def outlying(unit: Vectors) -> NDArray[np.intp]:
    """Return the places of vectors far from the others' mean, float32 ``[n, d]`` of unit length."""
    if len(unit) < 3:
        return np.empty(0, np.intp)
    cosines = unit @ unit.mean(axis=0)
    median = np.median(cosines)
    deviation = MAD_TO_DEVIATION * np.median(np.abs(cosines - median))
    return np.flatnonzero(cosines < median - DEVIATIONS * max(deviation, DEVIATION_MIN))
