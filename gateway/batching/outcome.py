"""PURE: whether what a worker answered can be believed. Nothing that fails here reaches a client."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import ModelInfo, Vectors
from embeddings_gateway.workers.worker import WrongAnswer

Outcome = NDArray[np.float32]
"""A vector, float32 ``[dimensions]``."""

NORM_TOLERANCE = 0.01


def outcomes(vectors: Vectors, inputs: int, info: ModelInfo) -> list[Outcome | None]:
    """Return the vector of each input of a batch, in order; ``None`` where it is not usable.

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
    return [row if right else None for row, right in zip(vectors, good.tolist(), strict=True)]
