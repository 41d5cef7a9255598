"""Batches made the way a planner does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.vectors import embed


def alone(backend, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Embed each input in a batch of its own."""
    return np.concatenate([embed(backend, [ids]) for ids in inputs])


def packed(backend, inputs: Sequence[np.ndarray], order: Sequence[int] | None = None) -> np.ndarray:
    """Embed in ``order``, in batches as full as they may be; the rows come back in the inputs' order."""
    vectors = np.empty((len(inputs), backend.info.dimensions), np.float32)
    for batch in batches(backend, inputs, range(len(inputs)) if order is None else order):
        vectors[batch] = embed(backend, [inputs[i] for i in batch])
    return vectors


def batches(backend, inputs: Sequence[np.ndarray], order: Sequence[int]) -> list[list[int]]:
    """Fill batches one after the other, within the limits that the backend states."""
    filled: list[list[int]] = [[]]
    for i in order:
        tokens = sum(len(inputs[k]) for k in filled[-1]) + len(inputs[i])
        full = tokens > backend.info.max_batch_tokens or len(filled[-1]) == backend.info.max_batch_inputs
        if filled[-1] and full:
            filled.append([])
        filled[-1].append(i)
    return filled
