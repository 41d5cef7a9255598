"""From a graph in fp32 to one in int8: post-training quantisation by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence

import nncf

from embeddings_gateway.backends.hf.runtimes.batch import Padded
from embeddings_gateway.backends.hf.runtimes.openvino_library import openvino


def quantize(model: openvino.Model, batches: Sequence[tuple[Padded, Padded]]) -> openvino.Model:
    """Return the model with its matrices in int8, scaled by what it computes for these batches.

    Args:
        model: in fp32.
        batches: ids and mask of each.
    """
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(batches, list),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )
