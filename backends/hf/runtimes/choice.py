"""Which runtime, device and dtype a model is computed with, before any of them is loaded."""

from __future__ import annotations

import importlib.util
from typing import Literal, NamedTuple

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.spec import HfSpec

Dtype = Literal["fp32", "bf16", "int8"]


class Choice(NamedTuple):
    """What computes a model.

    Attributes:
        runtime: the engine.
        device: ``cpu`` or ``cuda:N``.
        dtype: of the arithmetic in the transformer.
    """

    runtime: Literal["torch", "openvino"]
    device: str
    dtype: Dtype


def choose(spec: HfSpec) -> Choice:
    """Settle what the configuration leaves to the machine.

    Raises:
        LoadError: what it asks for is not here, or does not go together.
    """
    device = _device(spec.device)
    runtime = _runtime(spec, device)
    if spec.dtype == "int8" and runtime == "torch":
        raise LoadError("dtype 'int8' needs runtime 'openvino' on a processor: change one of them")
    if spec.dtype == "int8" and importlib.util.find_spec("nncf") is None:
        raise LoadError("dtype 'int8' needs the package nncf: install the extra 'int8'")
    if spec.dtype == "fp16":
        raise LoadError("dtype 'fp16' is not supported by this engine: use fp32, bf16 or auto")
    if spec.dtype == "auto":
        # On a processor torch's bf16 is too coarse for one text to have one vector in any company.
        exact = runtime == "torch" and device == "cpu"
        return Choice(runtime, device, "bf16" if not exact and _has_bf16(device) else "fp32")
    if spec.dtype == "bf16" and device != "cpu" and not _has_bf16(device):
        raise LoadError(f"dtype is 'bf16', but {device} does not have it: use fp32 or auto")
    return Choice(runtime, device, spec.dtype)


def _device(wanted: str) -> str:
    if wanted == "cpu" or (wanted == "auto" and not hardware.may_have_gpu()):
        return "cpu"
    from embeddings_gateway.backends.hf.runtimes import gpu

    return gpu.find(wanted)


def _has_bf16(device: str) -> bool:
    if device == "cpu":
        return hardware.has_bf16()
    from embeddings_gateway.backends.hf.runtimes import gpu

    return gpu.has_bf16(device)


def _runtime(spec: HfSpec, device: str) -> Literal["torch", "openvino"]:
    installed = importlib.util.find_spec("openvino") is not None
    if spec.runtime == "openvino":
        if device != "cpu":
            raise LoadError(f"runtime 'openvino' runs on the processor, but device is {device}: use torch")
        if not installed:
            raise LoadError("runtime 'openvino' needs the package openvino: install the extra 'openvino'")
        return "openvino"
    return "openvino" if spec.runtime == "auto" and device == "cpu" and installed else "torch"
