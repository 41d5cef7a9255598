"""Engines without HTTP, each in a process of its own: this project's backend, and sentence-transformers."""

from __future__ import annotations

import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from time import perf_counter, process_time
from typing import Any

import numpy as np

from bench.run_spec import RunError, RunResult, RunSpec, Vectors, run_result
from bench.texts import make_texts
from embeddings_gateway.backends.base import Batch, ModelInfo, Output
from embeddings_gateway.backends.load import load
from embeddings_gateway.backends.spec import Spec

WARM_UP_CALLS = 5
DENSE: tuple[Output, ...] = ("dense",)
END_S = 10.0
REASON_CHARS = 300


class EngineProcess:
    """An object in a process of its own, with its ``pid``: made there, its methods called from here."""

    def __init__(self, make: Callable[..., object], *arguments: object, settings: Mapping[str, str]) -> None:
        """Start the process, with ``settings`` over our environment; raises RunError if ``make`` fails."""
        spawn = multiprocessing.get_context("spawn")  # nothing of this process is in the other's memory
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        ours = dict(os.environ)
        os.environ.update(settings)
        self._process.start()
        os.environ.clear()
        os.environ.update(ours)
        theirs.close()
        self.pid = self._process.pid
        try:
            self._receive()
        except RunError:
            self.close()
            raise

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the object; raises RunError if it fails, or if the process has ended."""
        with suppress(BrokenPipeError):
            self._pipe.send((method, arguments))
        return self._receive()

    def close(self) -> None:
        """End the process: it ends with its pipe."""
        self._pipe.close()
        self._process.join(END_S)
        self._process.kill()  # if it has not ended yet
        self._process.join()

    def _receive(self) -> Any:
        try:
            result = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join(END_S)
            result = RunError(f"its process ended with status {self._process.exitcode}")
        if isinstance(result, RunError):
            raise result
        return result


def _serve(pipe: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.dup2(2, 1)  # standard output is for the report alone
    engine = _attempt(make, arguments)
    pipe.send(engine if isinstance(engine, RunError) else None)
    with suppress(EOFError):
        while not isinstance(engine, RunError):
            method, given = pipe.recv()
            pipe.send(_attempt(getattr(engine, method), given))


def _attempt(act: Callable[..., object], arguments: tuple[object, ...]) -> object:
    try:
        return act(*arguments)
    except Exception as error:  # whatever a library raises: the measurement goes on without this engine
        return RunError(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:REASON_CHARS]}")


class Engine(ABC):
    """Embeds texts in the process that it is made in."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, row by row."""

    def run(self, spec: RunSpec) -> RunResult:
        """Make the calls of a run one after the other; check the vectors afterwards."""
        texts = make_texts(spec.kind, range(spec.start, spec.start + spec.texts))
        calls = [texts[first : first + spec.inputs] for first in range(0, len(texts), spec.inputs)]
        for call in calls[: spec.warm_up]:
            self.embed(call)
        vectors: list[Vectors] = []
        cpu_s, times = process_time(), [perf_counter()]
        for call in calls[spec.warm_up :]:
            vectors.append(self.embed(call))
            times.append(perf_counter())
            if times[-1] - times[0] >= spec.seconds:
                break
        cpu_s, elapsed_s = process_time() - cpu_s, times[-1] - times[0]
        fits = [len(rows) == spec.inputs and bool(np.isfinite(rows).all()) for rows in vectors]
        right = {number: vectors[number] if fit else None for number, fit in enumerate(fits)}
        return run_result(spec, right, (1000 * np.diff(times)).tolist(), elapsed_s=elapsed_s, cpu_s=cpu_s)


class BackendEngine(Engine):
    """This project's backend without a gateway."""

    def __init__(self, spec: Spec) -> None:
        self._backend = load(spec)

    def runtime(self) -> tuple[str, str]:
        """Return runtime and dtype."""
        return self._backend.info.runtime, self._backend.info.dtype

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Tokenize all texts at once, and compute them in batches of like lengths."""
        inputs = self._backend.tokenize(texts)
        vectors = np.empty((len(texts), self._backend.info.dimensions), dtype=np.float32)
        for batch in plan_batches(inputs.lengths.tolist(), self._backend.info):
            vectors[batch] = self._backend.run(inputs.select(np.array(batch)), DENSE)["dense"].values
        return vectors

    def tokens_per_s(self, inputs: int, tokens: int, seconds: float) -> float:
        """Return the rate of batches of random ids, so many inputs of so many tokens."""
        info = self._backend.info
        size = (inputs, tokens - len(info.prefix) - len(info.suffix))
        bodies = np.random.default_rng(0).integers(0, info.vocabulary_size, size)
        batch = Batch.of([np.array([*info.prefix, *body, *info.suffix], dtype=np.int32) for body in bodies])
        return inputs * tokens * calls_per_s(lambda: self._backend.run(batch, DENSE), seconds)


class LibraryEngine(Engine):
    """sentence-transformers as its users call it, with its defaults: a peer, and the reference of vectors."""

    def __init__(self, path: str) -> None:
        from sentence_transformers import SentenceTransformer  # only in this engine's process

        self._model = SentenceTransformer(path, device="cpu")

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return ``SentenceTransformer(path).encode(texts)``."""
        return np.asarray(self._model.encode(list(texts), show_progress_bar=False), dtype=np.float32)


def plan_batches(lengths: Sequence[int], info: ModelInfo) -> Iterator[list[int]]:
    """Yield the indexes of inputs of these lengths in batches, longest first, each as full as it may be."""
    batch: list[int] = []
    cost = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        # The first input of a batch is its longest, and padding makes all as long.
        grown = cost + (lengths[batch[0]] if batch and info.cost == "padded" else length)
        if batch and (grown > info.max_batch_tokens or len(batch) == info.max_batch_inputs):
            yield batch
            batch, grown = [], length
        batch.append(index)
        cost = grown
    if batch:
        yield batch


def calls_per_s(call: Callable[[], object], seconds: float) -> float:
    """Return how often a second something can be called, once it is warm; it is called at least once."""
    for _ in range(WARM_UP_CALLS):
        call()
    count, began, elapsed = 0, perf_counter(), 0.0
    while count == 0 or elapsed < seconds:
        call()
        count += 1
        elapsed = perf_counter() - began
    return count / elapsed
