"""Engines in this process that do what a test says, when it says so, and requests for them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import get_args

import msgspec
import numpy as np

from embeddings_gateway.backends.base import Batch, Column, ModelInfo, Output, Part, TokenIds, Vectors
from embeddings_gateway.backends.fake import BEGIN, END, FakeBackend, fake_column, fake_vector
from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.batching.request import ANONYMOUS, Caller, Request
from embeddings_gateway.workers.dispatcher import Dispatcher
from embeddings_gateway.workers.engine import EngineResult, Loaded, State, TokenizeResult

WIDTH = 8
OUTPUTS: tuple[Output, ...] = get_args(Output)
SPEC = FakeSpec(width=WIDTH, outputs=OUTPUTS, labels=3)
"""Of a model that has every output."""
BACKEND = FakeBackend(SPEC)
_numbers = itertools.count(1000)


def make_info(**facts) -> ModelInfo:
    """Return the facts of a model of ``WIDTH`` dimensions, some of them as given."""
    plain = {"max_tokens": 100, "max_batch_tokens": 16, "max_batch_inputs": 8, "cost": "padded"}
    return msgspec.structs.replace(BACKEND.info, **plain | facts)


def make_ids(tokens: int) -> TokenIds:
    """Return ids that no other input has, so that a vector tells which input it belongs to."""
    return np.full(tokens, next(_numbers), dtype=np.int32)


def make_request(
    *lengths: int, caller: Caller = ANONYMOUS, partial: bool = False, outputs: tuple[Output, ...] = ("dense",)
) -> Request:
    """Return a request with an input of each length."""
    batch = Batch.of([make_ids(tokens) for tokens in lengths])
    return Request(batch, outputs, caller=caller, partial=partial)


def vector_of(text: str) -> Vectors:
    """Return the vector that the fake backend gives a text."""
    return fake_vector(np.array([BEGIN, *text.encode(), END], np.int32), WIDTH)


def right(batch: Batch, outputs: Sequence[Output] = ("dense",)) -> dict[Output, Column]:
    """Return what the fake backend computes."""
    return {output: fake_column(output, batch, SPEC) for output in outputs}


def right_vectors(batch: Batch) -> Vectors:
    """Return the vector of each input."""
    return right(batch)["dense"].values


def vectors(request: Request) -> Vectors:
    """Return the vectors that a request ended with."""
    return request.columns()["dense"].values


def is_right(request: Request) -> bool:
    """Tell whether a request is done and has the vector of each of its inputs."""
    done = request.done
    if not done.done() or done.cancelled() or done.exception() is not None:
        return False
    return np.array_equal(vectors(request), right_vectors(request.batch))


def same(first: Column, second: Column) -> bool:
    """Tell whether two columns are equal in all their parts."""
    return all(
        np.array_equal(getattr(first, part), getattr(second, part))
        if getattr(first, part) is not None
        else getattr(second, part) is None
        for part in ("values", "offsets", "indices")
    )


async def all_quiet() -> None:
    """Let everything in the event loop go on until it waits for the test; a hundred turns are plenty."""
    for _ in range(100):
        await asyncio.sleep(0)


class Running:
    """A batch inside a :class:`HeldEngine`, until the test ends it."""

    def __init__(self, batch: Batch, outputs: Sequence[Output]) -> None:
        self.batch = batch
        self.outputs = outputs
        self.result: asyncio.Future[EngineResult] = asyncio.get_running_loop().create_future()

    def finish(self, seconds: float = 1.0) -> None:
        """Give the right columns."""
        self.result.set_result(EngineResult(right(self.batch, self.outputs), seconds))

    def fail(self, error: Exception) -> None:
        """Fail."""
        self.result.set_exception(error)


class HeldEngine:
    """A supervised engine that is ready, and ends a batch when the test says so.

    Attributes:
        running: the batches that were not ended yet, oldest first.
        problem: what its self-test says.
        replaced: why it was replaced, each time.
        exonerated: how many crashes were an input's doing.
        texts: those of each tokenizer call.
        tokenizer: makes ids of them.
        gate: what a tokenizer call waits for first.
    """

    tokens_per_s = 0.0

    def __init__(self, info: ModelInfo | None = None) -> None:
        self.info: ModelInfo | None = info or make_info()
        self.state: State = "ready"
        self.reason = ""
        self.supervised: HeldEngine | None = self
        self.on_change: Callable[[], None] = lambda: None
        self.running: list[Running] = []
        self.problem = ""
        self.replaced: list[str] = []
        self.exonerated = 0
        self.texts: list[list[str]] = []
        self.tokenizer: Callable[..., Batch] = BACKEND.tokenize
        self.gate = asyncio.Event()
        self.gate.set()

    def make(self, *, accepts: Callable[[Loaded], str], on_change: Callable[[], None]) -> HeldEngine:
        """See :class:`embeddings_gateway.workers.engine.MakeEngine`."""
        self.on_change = on_change
        return self

    @property
    def ready(self) -> bool:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        return self.state == "ready"

    def to(self, state: State) -> None:
        """Enter a state."""
        self.state = state
        self.on_change()

    def start(self) -> None:
        """See :class:`embeddings_gateway.workers.engine.Engine`. It is ready from the beginning."""

    async def first_attempt(self) -> None:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""

    async def stop(self) -> None:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        self.to("stopped")

    async def ping(self) -> float:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        return 0.0

    @asynccontextmanager
    async def search(self) -> AsyncIterator[None]:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        yield

    @asynccontextmanager
    async def rerun(self) -> AsyncIterator[None]:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        yield

    @asynccontextmanager
    async def step(self, *, exclusive: bool) -> AsyncIterator[None]:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        if not exclusive:
            yield
            return
        self.to("searching")
        while self.running:
            await asyncio.wait([running.result for running in self.running])
            await asyncio.sleep(0)
        try:
            yield
        finally:
            if self.state == "searching":
                self.to("ready")

    async def check(self) -> str:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        return self.problem

    async def replace(self, reason: str) -> None:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self.replaced.append(reason)
        self.problem = ""

    def exonerate(self, crashes: int) -> None:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self.exonerated += crashes

    async def tokenize(
        self, texts: Sequence[str], text_pairs: Sequence[str] | None = None, part: Part | None = None
    ) -> TokenizeResult:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        self.texts.append(list(texts))
        await self.gate.wait()
        if part is None:
            return TokenizeResult(self.tokenizer(texts, text_pairs))
        ids, begin, end = BACKEND.tokenize_part(texts[0], part)
        return TokenizeResult(Batch.of([ids]), {}, (begin, end))

    async def run(self, batch: Batch, outputs: Sequence[Output], timeout_s: float) -> EngineResult:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        running = Running(batch, outputs)
        self.running.append(running)
        try:
            return await running.result
        finally:
            self.running.remove(running)


class AnsweringEngine(HeldEngine):
    """An engine that ends a batch at once, with the columns that a function makes of it.

    Attributes:
        batches: every batch it was given.
        outputs: what was asked of each.
        answer: the function.
    """

    def __init__(
        self,
        answer: Callable[[Batch, Sequence[Output]], dict[Output, Column]] = right,
        info: ModelInfo | None = None,
    ) -> None:
        super().__init__(info)
        self.batches: list[Batch] = []
        self.outputs: list[Sequence[Output]] = []
        self.answer = answer

    async def run(self, batch: Batch, outputs: Sequence[Output], timeout_s: float) -> EngineResult:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        self.batches.append(batch)
        self.outputs.append(outputs)
        return EngineResult(self.answer(batch, outputs), 1.0)


def make_dispatcher(*engines: HeldEngine) -> Dispatcher:
    """Return a dispatcher of these engines."""
    dispatcher = Dispatcher()
    for engine in engines:
        dispatcher.add(engine.make)
    return dispatcher
