"""From a torch module to a file that OpenVINO reads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from embeddings_gateway.backends.hf.runtimes.openvino_library import openvino

# Two rows of unequal length: what depends on the mask must show while the module is traced.
EXAMPLE_LENGTHS = (8, 5)


class UnconvertibleError(Exception):
    """OpenVINO cannot express the network."""


def trace(network: nn.Module, token: int) -> openvino.Model:
    """Return the network as OpenVINO's graph, for any number of inputs of any length.

    Args:
        network: maps ``input_ids`` and ``attention_mask``, int64 ``[inputs, tokens]``, to vectors.
        token: any id of the vocabulary but that of padding.

    Raises:
        UnconvertibleError: it cannot be converted.
    """
    longest = max(EXAMPLE_LENGTHS)
    ids = torch.full((len(EXAMPLE_LENGTHS), longest), token)
    mask = (torch.arange(longest) < torch.tensor(EXAMPLE_LENGTHS)[:, None]).long()
    example = {"input_ids": ids, "attention_mask": mask}
    try:
        with torch.inference_mode():
            model = openvino.convert_model(network, example_input=example)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch's tracer and OpenVINO raise all kinds
        raise UnconvertibleError(" ".join(str(error).split())[:300]) from error
    model.reshape({port: openvino.PartialShape([-1, -1]) for port in model.inputs})
    return model


def save(model: openvino.Model, path: Path, *, half: bool) -> None:
    """Write the model as ``path`` (the graph) and beside it a ``.bin`` (the weights).

    Args:
        model: the graph.
        path: ends in ``.xml``.
        half: whether weights are stored as fp16, which has more digits than the bf16 they are used in.

    Raises:
        OSError: they cannot be written.
    """
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # all that it says of a full disk
        raise OSError(f"{path.parent} cannot be written: is the disk full?") from error
