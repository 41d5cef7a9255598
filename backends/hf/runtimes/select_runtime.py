"""Which runtime, device and dtype a model is computed with, before any of them is loaded."""

from __future__ import annotations

import importlib.util
from typing import Literal, NamedTuple

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.runtimes.runtime import Dtype
from embeddings_gateway.backends.spec import HfSpec


class RuntimeChoice(NamedTuple):
    """What computes a model.

    Attributes:
        runtime: the engine.
        device: ``cpu`` or ``cuda:N``.
        dtype: of the arithmetic in the transformer.
    """

    runtime: Literal["torch", "openvino"]
    device: str
    dtype: Dtype


def select_runtime(spec: HfSpec) -> RuntimeChoice:
    """Resolve what the configuration leaves to the machine.

    Raises:
        LoadError: what it asks for is not here, or does not go together.
    """
    device = _device(spec.device)
    runtime = _runtime(spec, device)
    if spec.dtype == "int8" and runtime == "torch":
        raise LoadError("dtype 'int8' needs runtime 'openvino' on a processor: change one of them")
    if spec.dtype == "int8" and importlib.util.find_spec("nncf") is None:
        raise LoadError("dtype 'int8' needs the package nncf: install the extra 'int8'")
    if spec.dtype == "fp16" and device == "cpu":
        raise LoadError("dtype 'fp16' needs runtime 'torch' on a GPU: use bf16, fp32 or auto on a processor")
    if spec.dtype == "auto":
        # On a processor torch's bf16 is too coarse for a text to have the same vector in every batch.
        exact = runtime == "torch" and device == "cpu"
        return RuntimeChoice(runtime, device, "bf16" if not exact and _has_bf16(device) else "fp32")
    if spec.dtype == "bf16" and device != "cpu" and not _has_bf16(device):
        raise LoadError(f"dtype is 'bf16', but {device} does not have it: use fp32 or auto")
    return RuntimeChoice(runtime, device, spec.dtype)


def _device(wanted: str) -> str:
    """Return the device that the configuration asks for; ``auto`` is a GPU where there is one.

    Raises:
        LoadError: the configuration names a GPU that is not there.
    """
    if wanted == "cpu" or (wanted == "auto" and not hardware.may_have_gpu()):
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto" and not count:
        return "cpu"
    index = torch.device("cuda" if wanted == "auto" else wanted).index or 0
    if index >= count:
        raise LoadError(f"device is {wanted!r}, but torch finds {count} GPUs here: use cpu or auto")
    return f"cuda:{index}"


def _has_bf16(device: str) -> bool:
    """Tell whether a device computes in bf16 by itself."""
    if device == "cpu":
        return hardware.has_bf16()
    import torch

    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _runtime(spec: HfSpec, device: str) -> Literal["torch", "openvino"]:
    installed = importlib.util.find_spec("openvino") is not None
    if spec.runtime == "openvino":
        if device != "cpu":
            raise LoadError(f"runtime 'openvino' runs on the processor, but device is {device}: use torch")
        if not installed:
            raise LoadError("runtime 'openvino' needs the package openvino: install the extra 'openvino'")
        return "openvino"
    return "openvino" if spec.runtime == "auto" and device == "cpu" and installed else "torch"
