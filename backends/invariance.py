"""PURE: how near the outputs of one input have to be, alone and in a batch, by the arithmetic of the model.

Promised to clients. The self-test, the audit of a running model and the command ``check`` go by it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Column, ModelInfo, Output

BATCH_INVARIANCE = {
    "fp32": 0.99999,
    "f32": 0.99999,
    "bf16": 0.9999,
    "f16": 0.9999,
    "fp16": 0.9999,
    "int8": 0.999,
    "q8_0": 0.999,
}
"""The lowest cosine between an input's vector alone and in a batch, by dtype."""
TORCH_BF16 = 0.999  # it keeps eight bits between layers, and on a GPU kernels differ by batch
FEWER_BITS = 0.99
SCORE_TOLERANCE = {"fp32": 1e-4, "f32": 1e-4, "bf16": 1e-2, "f16": 1e-2, "fp16": 1e-2}
"""The largest difference of a score or of a sparse weight, by dtype; relative where it is above 1."""
SCORE_TOLERANCE_FEWER_BITS = 3e-2
NORM_TOLERANCE = 0.01
"""How far the length of a vector of unit length may be from 1."""
AUDIT_SLACK = 10
"""How many times as far apart as promised two outputs of one input may be before it is an alarm."""


def batch_invariance(info: ModelInfo) -> float:
    """Return the lowest cosine between a text's vector alone and in a batch."""
    if (info.runtime, info.dtype) == ("torch", "bf16"):
        return TORCH_BF16
    return BATCH_INVARIANCE.get(info.dtype, FEWER_BITS)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each pair of ``[..., dimensions]``; NaN where one is zero or not finite."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((a * b).sum(axis=-1) / lengths)


def same_column(output: Output, a: Column, b: Column, info: ModelInfo) -> bool:
    """Tell whether two well-formed columns can be of the same inputs: the audit's question."""
    return not difference(output, a, b, info, slack=AUDIT_SLACK)


def difference(output: Output, a: Column, b: Column, info: ModelInfo, *, slack: float = 1) -> str:
    """Say how two well-formed columns of the same inputs differ by more than promised; empty if they do not.

    ``slack``: how many times as far apart as promised they may be.
    """
    lowest = 1 - slack * (1 - batch_invariance(info))
    tolerance = slack * SCORE_TOLERANCE.get(info.dtype, SCORE_TOLERANCE_FEWER_BITS)
    match output:
        case "score":
            return _apart("scores", a.values, b.values, tolerance)
        case "sparse":
            one, other = _dense(a, info.vocabulary_size), _dense(b, info.vocabulary_size)
            only_one = (one == 0) | (other == 0)
            return _apart("weights", one[only_one], other[only_one], tolerance) or _turned(one, other, lowest)
        case _:
            if len(a.values) != len(b.values):
                return "different numbers of vectors"
            return _turned(a.values, b.values, lowest)


def _apart(name: str, a: NDArray[np.float32], b: NDArray[np.float32], tolerance: float) -> str:
    largest = (np.abs(a - b) / np.maximum(np.abs(a), 1)).max(initial=0)
    return "" if largest <= tolerance else f"{name} that differ by {largest:.6f}; promised is {tolerance}"


def _turned(a: NDArray[np.float32], b: NDArray[np.float32], lowest: float) -> str:
    nonzero = a.any(axis=1) | b.any(axis=1)  # a sparse vector may have no weight at all
    least = cosine(a[nonzero], b[nonzero]).min(initial=1)
    return "" if least >= lowest else f"a cosine of {least:.6f}; promised is {lowest}"


def _dense(column: Column, size: int) -> NDArray[np.float32]:
    """Return a sparse column as ``[inputs, vocabulary]``."""
    vectors = np.zeros((len(column), size), np.float32)
    assert column.offsets is not None  # noqa: S101 - well-formed, says the caller
    vectors[np.repeat(np.arange(len(column)), np.diff(column.offsets)), column.indices] = column.values[:, 0]
    return vectors
