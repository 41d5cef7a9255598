"""Facts, inputs and engines for tests of what stands between a model and its engines."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager

import msgspec
import numpy as np

from embeddings_gateway.backends.base import Batch, ModelInfo
from embeddings_gateway.backends.fake import FakeBackend, fake_vector
from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.workers.engine import WorkerGone

DIMENSIONS = 8
_ids = itertools.count(1000)


def make_info(**facts) -> ModelInfo:
    """Return the facts of a fake model, some of them as given."""
    return msgspec.structs.replace(FakeBackend(FakeSpec(width=DIMENSIONS)).info, **facts)


def make_batch(*lengths: int) -> Batch:
    """Return a batch whose inputs have ids of their own, so that a vector tells its input."""
    return Batch.of([np.full(length, next(_ids), np.int32) for length in lengths])


def right_vectors(batch: Batch, dimensions: int = DIMENSIONS):
    """Return the vector that the fake backend gives each input."""
    return np.stack([fake_vector(ids, dimensions) for ids in batch.split()])


async def all_quiet() -> None:
    """Let the event loop run until everything waits for the test; a hundred turns are plenty."""
    for _ in range(100):
        await asyncio.sleep(0)


class ScriptedEngine:
    """An engine whose state the test sets. It supervises itself unless told otherwise.

    Attributes:
        busy_seconds: what a ping answers; an exception is raised; ``None`` never answers.
        log: what was done with it, in order.
        problem: what its self-test finds.
        exonerated: crashes that did not count.
    """

    tokens_per_s = 0.0

    def __init__(self, *, accepts=None, on_change=None, supervised=True):
        self.accepts = accepts
        self.on_change = on_change or (lambda: None)
        self.info = None
        self.state = "loading"
        self.reason = "the model is being loaded"
        self.supervised = self if supervised else None
        self.busy_seconds = 0.0
        self.log = []
        self.problem = ""
        self.exonerated = 0

    def __repr__(self):
        return f"<ScriptedEngine {self.state}>"

    @property
    def ready(self):
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        return self.state == "ready"

    def to(self, state, reason="", info=None):
        """Enter a state."""
        self.state, self.reason, self.info = state, reason, info or self.info
        self.on_change()

    def start(self):
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        self.log.append("start")

    async def first_attempt(self):
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        self.log.append("first_attempt")

    async def stop(self):
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        self.log.append("stop")
        self.to("stopped", "the gateway is stopping")

    async def ping(self):
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        if self.busy_seconds is None:
            await asyncio.Event().wait()
        if self.state == "stopped":
            raise WorkerGone
        return self.busy_seconds

    @asynccontextmanager
    async def search(self):
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self.log.append("search")
        yield
        self.log.append("found")

    @asynccontextmanager
    async def rerun(self):
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self.log.append("rerun")
        yield

    @asynccontextmanager
    async def step(self, *, exclusive):
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self.log.append("exclusive" if exclusive else "shared")
        yield

    async def check(self):
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self.log.append("check")
        return self.problem

    async def replace(self, reason):
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self.log.append(f"replace: {reason}")
        self.problem = ""

    def exonerate(self, crashes):
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self.exonerated += crashes
