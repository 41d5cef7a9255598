"""PURE: whether what a worker answered can be believed. Nothing that fails here reaches a client."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.base import ModelInfo, Vectors
from gateway.errors import InputFailed

Outcome = NDArray[np.float32] | InputFailed
"""A vector, float32 ``[dimensions]``, or why there is none."""

NORM_TOLERANCE = 0.01


class WrongAnswer(Exception):
    """The answer is not one row of the right width for each input: no row of it can be trusted."""


def outcomes(vectors: Vectors, inputs: int, info: ModelInfo) -> list[Outcome]:
    """Return what each input of a batch gets, in order.

    Args:
        vectors: what the worker answered, float32 ``[inputs, dimensions]`` if it is right.
        inputs: how many inputs were asked for.
        info: the facts that the worker stated of its model.

    Raises:
        WrongAnswer: the count or the width is wrong.
    """
    if vectors.shape != (inputs, info.dimensions):
        raise WrongAnswer(f"{vectors.shape} vectors for {inputs} inputs of {info.dimensions} dimensions")
    norms = np.linalg.norm(vectors, axis=1)
    good = np.isfinite(norms) & (norms > 0)
    if info.normalized:
        good &= np.abs(norms - 1) < NORM_TOLERANCE
    return [
        row if right else InputFailed("The model gives no usable vector for this input.")
        for row, right in zip(vectors, good.tolist(), strict=True)
    ]
