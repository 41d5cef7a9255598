"""Selects runtime, device and dtype for a model, and loads it; torch is imported only where it serves."""

from __future__ import annotations

import importlib.util
from typing import Literal

import msgspec

from embeddings_gateway.backends.base import BackendError, LoadError
from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.conversion.conversion_cache import (
    GRAPH,
    Conversion,
    ConversionFailed,
    ConversionRefused,
    ConversionSource,
    find_or_convert,
)
from embeddings_gateway.backends.hf.conversion.probes import SAME_RUNTIME, measure_agreement
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.runtimes.runtime import Dtype, LoadedModel, RuntimeChoice
from embeddings_gateway.backends.spec import HfSpec


def select_runtime(spec: HfSpec) -> RuntimeChoice:
    """Resolve what the configuration leaves to the machine."""
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
    """Return the device that the configuration asks for; ``auto`` is a GPU where there is one."""
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
    """Return whether a device computes in bf16 without emulation."""
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


def load_runtime(spec: HfSpec, choice: RuntimeChoice, layout: Layout, weights: Weights) -> LoadedModel:
    """Load the model into the fastest engine and dtype that gives its vectors: OpenVINO in bf16, in fp32, torch.

    The last two are tried where the configuration leaves the dtype and the engine to us.
    """
    if choice.runtime == "torch":
        return _load_torch(spec, choice, layout, weights)
    # What bf16 is too coarse for OpenVINO computes in fp32, which is still faster than torch.
    dtypes: list[Dtype] = (
        [choice.dtype, "fp32"] if (spec.dtype, choice.dtype) == ("auto", "bf16") else [choice.dtype]
    )
    reasons: list[str] = []
    for dtype in dtypes:
        loaded = _load_openvino(ConversionSource(spec, dtype, layout, weights))
        if isinstance(loaded, LoadedModel):
            notes = [f"served in {dtype}, which is slower, since {reason}" for reason in reasons]
            return loaded._replace(notes=(*notes, *loaded.notes))
        reasons.append(f"OpenVINO in {dtype} is not possible: {loaded.reason}")
        if isinstance(loaded, ConversionFailed):  # the next attempt may succeed, in the dtype that was wanted
            break
    if spec.runtime == "openvino" or choice.dtype == "int8":
        raise LoadError("; ".join(reasons))
    in_torch = select_runtime(msgspec.structs.replace(spec, runtime="torch", device="cpu"))
    model = _load_torch(spec, in_torch, layout, weights)
    note = f"served by torch, which is slower, since {'; '.join(reasons)}"
    return model._replace(notes=(note, *model.notes))


def _load_openvino(source: ConversionSource) -> LoadedModel | ConversionRefused | ConversionFailed:
    """Load the conversion. If it cannot be loaded or gives other vectors than before, convert again, once."""
    conversion = find_or_convert(source)
    loaded = _load_conversion(source, conversion)
    if isinstance(conversion, Conversion) and isinstance(loaded, ConversionFailed):
        return _load_conversion(source, find_or_convert(source, replacing=conversion.record))
    return loaded


def _load_conversion(
    source: ConversionSource, conversion: Conversion | ConversionRefused | ConversionFailed
) -> LoadedModel | ConversionRefused | ConversionFailed:
    if not isinstance(conversion, Conversion):
        return conversion
    from embeddings_gateway.backends.hf.runtimes.openvino_runtime import OpenvinoRuntime

    record, threads = conversion.record, source.spec.threads
    try:
        runtime = OpenvinoRuntime(conversion.folder / GRAPH, source.dtype, threads, record.facts)
        agreement = measure_agreement(runtime, *record.reference_vectors.unpack())
    except BackendError as error:
        return ConversionFailed(str(error))
    if not agreement.lowest >= SAME_RUNTIME[source.dtype]:
        runtime.close()
        return ConversionFailed("its conversion does not give the vectors that it gave when it was made")
    batch_tokens = record.batch_tokens if threads == record.threads else None
    notes = (*record.notes, *record.tokenizer.notes)
    return LoadedModel(runtime, record.facts, record.tokenizer, conversion.folder, batch_tokens, notes)


def _load_torch(spec: HfSpec, choice: RuntimeChoice, layout: Layout, weights: Weights) -> LoadedModel:
    from embeddings_gateway.backends.hf.runtimes.torch_runtime import load_torch

    return load_torch(spec, choice, layout, weights)
