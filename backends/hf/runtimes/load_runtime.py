"""Loads a model into the runtime that was selected for it; torch is imported only where it serves."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from embeddings_gateway.backends.base import BackendError, LoadError
from embeddings_gateway.backends.hf.conversion.conversion_cache import (
    Conversion,
    ConversionSource,
    find_or_convert,
)
from embeddings_gateway.backends.hf.conversion.probes import SAME_RUNTIME, measure_agreement
from embeddings_gateway.backends.hf.conversion.record import GRAPH, ConversionFailed, ConversionRefused
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.runtimes.runtime import Runtime, TransformerFacts
from embeddings_gateway.backends.hf.runtimes.select_runtime import RuntimeChoice, select_runtime
from embeddings_gateway.backends.spec import HfSpec


class LoadedModel(NamedTuple):
    """A model in a runtime.

    Attributes:
        runtime: what computes it.
        facts: of its transformer.
        converted: the directory of its conversion, if it runs from one.
        batch_tokens: the cost of a batch from which on it gets no faster, if that is known.
        notes: what an operator should know.
    """

    runtime: Runtime
    facts: TransformerFacts
    converted: Path | None
    batch_tokens: int | None
    notes: tuple[str, ...]


def load_runtime(spec: HfSpec, choice: RuntimeChoice, layout: Layout, weights: Weights) -> LoadedModel:
    """Load the model.

    Raises:
        LoadError: it cannot be served, or not the way that the configuration insists on.
    """
    if choice.runtime == "torch":
        return _load_torch(spec, choice, layout, ())
    loaded = _load_openvino(ConversionSource(spec, choice.dtype, layout, weights))
    if isinstance(loaded, LoadedModel):
        return loaded
    if spec.runtime == "openvino" or choice.dtype == "int8":
        raise LoadError(f"not served by OpenVINO in {choice.dtype}: {loaded.reason}")
    note = f"served by torch, since OpenVINO in {choice.dtype} is not to be had: {loaded.reason}"
    in_torch = select_runtime(msgspec.structs.replace(spec, runtime="torch", device="cpu"))
    return _load_torch(spec, in_torch, layout, (note,))


def _load_openvino(source: ConversionSource) -> LoadedModel | ConversionRefused | ConversionFailed:
    """Load the conversion; one that cannot be loaded, or gives other vectors now, is made anew, once."""
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
    return LoadedModel(runtime, record.facts, conversion.folder, batch_tokens, ())


def _load_torch(spec: HfSpec, choice: RuntimeChoice, layout: Layout, notes: tuple[str, ...]) -> LoadedModel:
    from embeddings_gateway.backends.hf.runtimes.torch_runtime import load_torch

    loaded = load_torch(spec, choice, layout)
    return LoadedModel(loaded.runtime, loaded.facts, None, None, notes + loaded.notes)
