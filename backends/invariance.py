"""PURE: batch invariance: how much an input's output alone and its output in a batch may differ, by dtype.

Clients are promised this. The self-test, the audit of a running model and the command ``check`` use it.
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
LLAMA_QUANTISED = 0.999  # on a processor vectors do not depend on the batch (see backends/gguf/packing)
FEWER_BITS = 0.99
SCORE_TOLERANCE = {"fp32": 1e-4, "f32": 1e-4, "bf16": 1e-2, "f16": 1e-2, "fp16": 1e-2}
"""The largest difference of a score or of a sparse weight, by dtype; relative where it is above 1."""
SCORE_TOLERANCE_FEWER_BITS = 3e-2
NORM_TOLERANCE = 0.01
"""How far the length of a vector of unit length may be from 1."""
AUDIT_SLACK = 10
"""The audit tolerates this many times the promised difference."""


def batch_invariance(info: ModelInfo) -> float:
    """Return the lowest cosine between a text's vector alone and in a batch."""
    if (info.runtime, info.dtype) == ("torch", "bf16"):
        return TORCH_BF16
    if (info.runtime, info.device) == ("llama.cpp", "cpu"):
        return BATCH_INVARIANCE.get(info.dtype, LLAMA_QUANTISED)
    return BATCH_INVARIANCE.get(info.dtype, FEWER_BITS)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each pair of ``[..., dimensions]``; NaN where one is zero or not finite."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((a * b).sum(axis=-1) / lengths)


def same_column(output: Output, a: Column, b: Column, info: ModelInfo) -> bool:
    """Return whether two well-formed columns can belong to the same inputs, with the tolerance of the audit."""
    return not difference(output, a, b, info, slack=AUDIT_SLACK)


def difference(output: Output, a: Column, b: Column, info: ModelInfo, *, slack: float = 1) -> str:
    """Return how two well-formed columns of the same inputs differ by more than promised; empty if they do not.

    ``slack``: how many times the promised difference is tolerated.
    """
    lowest = 1 - slack * (1 - batch_invariance(info))
    tolerance = slack * SCORE_TOLERANCE.get(info.dtype, SCORE_TOLERANCE_FEWER_BITS)
    match output:
        case "score":
            return _values_differ("scores", a.values, b.values, tolerance)
        case "sparse":
            first, second = _dense(a, info.vocabulary_size), _dense(b, info.vocabulary_size)
            in_one_only = (first == 0) | (second == 0)
            problem = _values_differ("weights", first[in_one_only], second[in_one_only], tolerance)
            return problem or _vectors_differ(first, second, lowest)
        case _:
            if len(a.values) != len(b.values):
                return "different numbers of vectors"
            return _vectors_differ(a.values, b.values, lowest)


def _values_differ(name: str, a: NDArray[np.float32], b: NDArray[np.float32], tolerance: float) -> str:
    largest = (np.abs(a - b) / np.maximum(np.abs(a), 1)).max(initial=0)
    return "" if largest <= tolerance else f"{name} that differ by {largest:.6f}; promised is {tolerance}"


def _vectors_differ(a: NDArray[np.float32], b: NDArray[np.float32], lowest: float) -> str:
    nonzero = a.any(axis=1) | b.any(axis=1)  # a sparse vector may have no weight at all
    least = cosine(a[nonzero], b[nonzero]).min(initial=1)
    return "" if least >= lowest else f"a cosine of {least:.6f}; promised is {lowest}"


def _dense(column: Column, size: int) -> NDArray[np.float32]:
    """Return a sparse column as ``[inputs, vocabulary]``."""
    vectors = np.zeros((len(column), size), np.float32)
    assert column.offsets is not None  # noqa: S101 - well-formed, says the caller
    vectors[np.repeat(np.arange(len(column)), np.diff(column.offsets)), column.indices] = column.values[:, 0]
    return vectors
