"""Runs a converted network with OpenVINO, on the processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backends.base import CostRule, EmbedError, LoadError, TokenIds, Vectors
from backends.hf import hardware
from backends.hf.runtimes.batch import pad
from backends.hf.runtimes.choice import Dtype
from backends.hf.runtimes.openvino_library import openvino

# Kernels kept for shapes that came before. Without a bound memory grows with every new shape.
SHAPES_KEPT = 100


class OpenvinoRuntime:
    """A converted network. See :class:`backends.hf.runtimes.runtime.Runtime`.

    Args:
        model: the converted network, inputs ``ids`` and ``mask``, int64 ``[inputs, tokens]``.
        dtype: of the arithmetic.
        threads: how many compute; ``None`` is all cores.
        pad_id: the model's own padding id.

    Raises:
        LoadError: OpenVINO cannot take the model.
    """

    name = "openvino"
    device = "cpu"
    cost: CostRule = "padded"

    def __init__(self, model: Path, dtype: Dtype, threads: int | None, pad_id: int) -> None:
        self.dtype: str = dtype
        self._pad_id = pad_id
        options: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": _precision(dtype),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "CPU_RUNTIME_CACHE_CAPACITY": SHAPES_KEPT,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = openvino.Core().compile_model(model, "CPU", options)
            self._request: openvino.InferRequest | None = self._compiled.create_infer_request()
        except Exception as error:  # its own kinds have no common root
            raise LoadError(f"OpenVINO cannot take {model}: {type(error).__name__}") from error

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        """Compute one vector per input."""
        if self._request is None:
            raise EmbedError("the model is closed")
        ids, mask = pad(batch, self._pad_id)
        try:
            vectors = self._request.infer([ids, mask], share_inputs=True, share_outputs=True)[0]
        except Exception as error:
            # Only the kind: a message may hold values of the input.
            raise EmbedError(f"OpenVINO failed: {type(error).__name__}") from None
        return np.array(vectors, dtype=np.float32, order="C")  # a copy: the next batch overwrites it

    def close(self) -> None:
        """Give the memory back."""
        self._request = self._compiled = None


def _precision(dtype: Dtype) -> str:
    """Return what is computed in where the model does not say: int8 models say it of their matrices only."""
    half = dtype == "bf16" or (dtype == "int8" and hardware.has_bf16())
    return "bf16" if half else "f32"
