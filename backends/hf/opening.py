"""Opens a model in the runtime that was chosen for it; torch is imported only where it serves."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from embeddings_gateway.backends.base import BackendError, LoadError
from embeddings_gateway.backends.hf.conversion import agreement
from embeddings_gateway.backends.hf.conversion.obtain import Conversion, Source, obtain
from embeddings_gateway.backends.hf.conversion.record import GRAPH, Failed, Refused
from embeddings_gateway.backends.hf.facts import Facts
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.runtimes.choice import Choice, choose
from embeddings_gateway.backends.hf.runtimes.runtime import Runtime
from embeddings_gateway.backends.spec import HfSpec


class Opened(NamedTuple):
    """A model in a runtime.

    Attributes:
        runtime: what computes it.
        facts: of its transformer.
        kept: the directory of its conversion, if it runs from one.
        batch_tokens: the cost of a batch from which on it gets no faster, if that is known.
        notes: what an operator should know.
    """

    runtime: Runtime
    facts: Facts
    kept: Path | None
    batch_tokens: int | None
    notes: tuple[str, ...]


def open_model(spec: HfSpec, choice: Choice, layout: Layout, weights: Weights) -> Opened:
    """Load the model.

    Raises:
        LoadError: it cannot be served, or not the way that the configuration insists on.
    """
    if choice.runtime == "torch":
        return _in_torch(spec, choice, layout, ())
    opened = _in_openvino(Source(spec, choice.dtype, layout, weights))
    if isinstance(opened, Opened):
        return opened
    if spec.runtime == "openvino" or choice.dtype == "int8":
        raise LoadError(f"not served by OpenVINO in {choice.dtype}: {opened.reason}")
    note = f"served by torch, since OpenVINO in {choice.dtype} is not to be had: {opened.reason}"
    in_torch = choose(msgspec.structs.replace(spec, runtime="torch", device="cpu"))
    return _in_torch(spec, in_torch, layout, (note,))


def _in_openvino(source: Source) -> Opened | Refused | Failed:
    """Load the conversion; one that cannot be loaded, or gives other vectors now, is made anew, once."""
    found = obtain(source)
    opened = _opened(source, found)
    if isinstance(found, Conversion) and isinstance(opened, Failed):
        return _opened(source, obtain(source, instead_of=found.record))
    return opened


def _opened(source: Source, found: Conversion | Refused | Failed) -> Opened | Refused | Failed:
    if not isinstance(found, Conversion):
        return found
    from embeddings_gateway.backends.hf.runtimes.openvino_runtime import OpenvinoRuntime

    record, threads = found.record, source.spec.threads
    try:
        runtime = OpenvinoRuntime(found.folder / GRAPH, source.dtype, threads, record.facts)
        agreed = agreement.measure(runtime, *record.golden.unpack())
    except BackendError as error:
        return Failed(str(error))
    if not agreed.lowest >= agreement.SAME[source.dtype]:
        runtime.close()
        return Failed("its conversion does not give the vectors that it gave when it was made")
    known = record.batch_tokens if threads == record.threads else None
    return Opened(runtime, record.facts, found.folder, known, ())


def _in_torch(spec: HfSpec, choice: Choice, layout: Layout, notes: tuple[str, ...]) -> Opened:
    from embeddings_gateway.backends.hf.runtimes.torch_runtime import load

    loaded = load(spec, choice, layout)
    return Opened(loaded.runtime, loaded.facts, None, None, notes + loaded.notes)
