"""Runs a converted network with OpenVINO, on the processor.

All other files import ``openvino`` from here: without its telemetry, and with bounded caches.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from embeddings_gateway.backends.base import Batch, CostRule, EmbedError, LoadError, OutOfMemory, Vectors
from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.runtimes.runtime import Dtype, TransformerFacts, is_out_of_memory, pad

# Converting a model would report it to Intel. Both OpenVINO and NNCF do without this package, and send
# nothing, where it cannot be imported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

# oneDNN, inside OpenVINO, keeps 1024 kernels beside those that OpenVINO keeps: under ever new shapes 200 MB
# with a tiny model. It reads this once.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

import openvino as openvino  # noqa: E402, PLC0414 - other files import it from here

# Kernels kept for earlier shapes, several for each. Without a bound, memory grows with every new shape.
KERNELS_KEPT = 400
# The significant binary digits of a padded length. Kernels of a new shape cost as much time as 70 tokens. The
# padding that this adds to the planner's averages 3 %.
LENGTH_DIGITS = 5


class OpenvinoRuntime:
    """A converted network; implements ``Runtime``.

    ``model`` is its file, with inputs ``ids`` and ``mask``, int64 ``[inputs, tokens]``.
    """

    name = "openvino"
    device = "cpu"
    cost: CostRule = "padded"

    def __init__(self, model: Path, dtype: Dtype, threads: int | None, facts: TransformerFacts) -> None:
        self.dtype = dtype
        self._facts = facts
        half = dtype == "bf16" or (dtype == "int8" and hardware.has_bf16())
        options: dict[str, object] = {
            # What is computed in where the model does not say: int8 models say it of their matrices only.
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS_KEPT,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = openvino.Core().compile_model(model, "CPU", options)
            self._request: openvino.InferRequest | None = self._compiled.create_infer_request()
        except (OSError, MemoryError):  # may be so for a while only
            raise
        except Exception as error:  # its own kinds have no common root
            reason = " ".join(str(error).split())[:200]
            raise LoadError(f"OpenVINO cannot take the model: {type(error).__name__}: {reason}") from error

    def run(self, batch: Batch) -> Vectors:
        """Compute one vector per input."""
        if self._request is None:
            raise EmbedError("the model is closed")
        length = round_up(int(batch.lengths.max()), self._facts.positions)
        ids, mask = pad(batch, self._facts.pad_id, length)
        try:
            vectors = self._request.infer([ids, mask], share_inputs=True, share_outputs=True)[0]
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory("OpenVINO is out of memory") from None
            # Only the kind: a message may hold values of the input.
            raise EmbedError(f"OpenVINO failed: {type(error).__name__}") from None
        return np.array(vectors, dtype=np.float32, order="C")  # a copy: the next batch overwrites it

    def close(self) -> None:
        """Free the memory."""
        self._request = self._compiled = None


def round_up(length: int, limit: int | None) -> int:
    """Return a length in tokens that many batches have in common: less than a sixteenth above the true one.

    ``limit`` is the longest that the transformer has positions for.
    """
    step = 1 << max(0, length.bit_length() - LENGTH_DIGITS)
    rounded = -(-length // step) * step
    return rounded if limit is None else max(length, min(rounded, limit))
