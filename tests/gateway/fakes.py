"""Workers in this process that do what a test says, when it says so, and requests for them."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import numpy as np

from embeddings_gateway.backends.base import ModelInfo, TokenIds, Vectors
from embeddings_gateway.backends.fake import BEGIN, END, FakeBackend, fake_vector
from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.batching.job import Request
from embeddings_gateway.workers.worker import Timed

WIDTH = 8
_numbers = itertools.count(1000)


def make_info(**facts) -> ModelInfo:
    """Return the facts of a model of ``WIDTH`` dimensions, some of them as given."""
    plain = {"max_tokens": 100, "batch_tokens": 16, "batch_inputs": 8, "cost": "padded"}
    return msgspec.structs.replace(FakeBackend(FakeSpec(width=WIDTH)).info, **plain | facts)


def make_ids(tokens: int) -> TokenIds:
    """Return ids that no other input has, so that a vector tells which input it belongs to."""
    return np.full(tokens, next(_numbers), dtype=np.int32)


def blank(inputs, dimensions):
    """Return room for the vectors of a request: NaN, which nothing takes for one."""
    return np.full((inputs, dimensions), np.nan, np.float32)


def make_request(*lengths: int, deadline: float = math.inf, partial: bool = False) -> Request:
    """Return a request with an input of each length."""
    return Request([make_ids(tokens) for tokens in lengths], blank(len(lengths), WIDTH), deadline, partial)


def vector_of(text: str) -> Vectors:
    """Return the vector that the fake backend gives a text."""
    return fake_vector(np.array([BEGIN, *text.encode(), END], np.int32), WIDTH)


def right_vectors(batch: Sequence[TokenIds]) -> Vectors:
    """Return the vector of each input."""
    return np.stack([fake_vector(ids, WIDTH) for ids in batch])


def expected(request: Request) -> Vectors:
    """Return the vectors that the request has to end with."""
    return right_vectors([job.ids for job in request.jobs])


async def all_quiet() -> None:
    """Let everything in the event loop go on until it waits for the test; a hundred turns are plenty."""
    for _ in range(100):
        await asyncio.sleep(0)


class Running:
    """A batch inside a :class:`HeldWorker`, until the test ends it."""

    def __init__(self, batch: Sequence[TokenIds]) -> None:
        self.batch = batch
        self.answer: asyncio.Future[Timed] = asyncio.get_running_loop().create_future()

    def finish(self, seconds: float = 1.0) -> None:
        """Answer with the right vectors."""
        self.answer.set_result(Timed(right_vectors(self.batch), seconds))

    def fail(self, error: Exception) -> None:
        """Fail."""
        self.answer.set_exception(error)


class HeldWorker:
    """A worker that answers a batch when the test says so.

    Attributes:
        ready: whether it takes a call.
        running: the batches that were not ended yet, oldest first.
        wrong: what its self-test says.
        replaced: why it was replaced, each time.
        explained_deaths: how many deaths were an input's doing.
    """

    tokens_per_s = 0.0

    def __init__(self, info: ModelInfo | None = None) -> None:
        self.info: ModelInfo | None = info or make_info()
        self.ready = True
        self.running: list[Running] = []
        self.wrong = ""
        self.replaced: list[str] = []
        self.explained_deaths = 0

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        self.ready = False
        while self.running:
            await asyncio.wait([one.answer for one in self.running])
            await asyncio.sleep(0)
        yield
        self.ready = True

    async def check(self) -> str:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        return self.wrong

    def explained(self, deaths: int) -> None:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        self.explained_deaths += deaths

    async def replace(self, reason: str) -> None:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        self.replaced.append(reason)
        self.wrong = ""

    async def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        raise NotImplementedError

    async def embed(self, batch: Sequence[TokenIds], seconds_max: float) -> Timed:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        one = Running(batch)
        self.running.append(one)
        try:
            return await one.answer
        finally:
            self.running.remove(one)

    async def ping(self) -> float:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        raise NotImplementedError


class AnsweringWorker(HeldWorker):
    """A worker that answers at once with what a function makes of the batch.

    Attributes:
        batches: the token ids of every batch it was given.
    """

    def __init__(
        self, answer: Callable[[Sequence[TokenIds]], Vectors], info: ModelInfo | None = None
    ) -> None:
        super().__init__(info)
        self.batches: list[Sequence[TokenIds]] = []
        self._answer = answer

    async def embed(self, batch: Sequence[TokenIds], seconds_max: float) -> Timed:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        self.batches.append(batch)
        return Timed(self._answer(batch), 1.0)
