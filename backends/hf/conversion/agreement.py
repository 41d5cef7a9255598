"""Whether a conversion gives the vectors that torch gives in fp32: measured on probes, and judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from embeddings_gateway.backends.base import TokenIds, Vectors
from embeddings_gateway.backends.hf.cosine import cosines
from embeddings_gateway.backends.hf.runtimes.choice import Dtype
from embeddings_gateway.backends.hf.runtimes.runtime import Runtime

COSINE_MIN: dict[Dtype, float] = {"fp32": 0.9999, "bf16": 0.999}
COSINE_MEAN_INT8 = 0.995
SAME: dict[Dtype, float] = {"fp32": 0.99999, "bf16": 0.9999, "int8": 0.999}
"""Two vectors of one text by one runtime are this near to each other, whatever stands beside the text."""
COMPANY = 8


class Agreement(NamedTuple):
    """How near vectors are to those of torch in fp32.

    Attributes:
        lowest, mean: cosine over the probes; NaN if a vector is not finite or zero.
    """

    lowest: float
    mean: float

    def shortfall(self, dtype: Dtype) -> str:
        """Say what is missing for a dtype; empty if nothing is."""
        if dtype == "int8":
            return _below("the mean", self.mean, COSINE_MEAN_INT8)
        return _below("the lowest", self.lowest, COSINE_MIN[dtype])


def measure(runtime: Runtime, inputs: Sequence[TokenIds], expected: Vectors) -> Agreement:
    """Compare a runtime with what torch gave each input alone: alone, and in company of other lengths.

    Args:
        runtime: what is judged.
        inputs: token ids.
        expected: float32 ``[inputs, dimensions]``.
    """
    alone = np.concatenate([runtime.run([ids]) for ids in inputs])
    batches = [inputs[start : start + COMPANY] for start in range(0, len(inputs), COMPANY)]
    together = np.concatenate([runtime.run(batch) for batch in batches])
    found = np.concatenate([cosines(alone, expected), cosines(together, expected)])
    return Agreement(float(found.min()), float(found.mean()))


def _below(what: str, cosine: float, bound: float) -> str:
    if cosine >= bound:  # never true of NaN
        return ""
    return f"{what} cosine to fp32 on probe texts is {cosine:.5f}, and it has to be {bound} at least"
