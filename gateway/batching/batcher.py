"""Gives the rows of one model to its engines in batches.

A batch leaves as soon as an engine can take it. An idle engine takes whatever waits. A busy engine takes one more
batch if it is full: so it does not wait for the socket, and does not commit to a batch that could still grow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial

from embeddings_gateway.batching.chunks import Chunk
from embeddings_gateway.batching.queue import Admission, Queue, TakenBatch
from embeddings_gateway.batching.request import Request
from embeddings_gateway.batching.runner import Runner
from embeddings_gateway.config import ServingConfig
from embeddings_gateway.errors import GatewayError
from embeddings_gateway.metrics import ModelMetrics
from embeddings_gateway.workers.dispatcher import Dispatcher
from embeddings_gateway.workers.engine import Engine
from embeddings_gateway.workers.isolation import Quarantine

MAX_IN_FLIGHT = 2


class Batcher:
    """Runs the rows of one model on its engines. Belongs to one event loop.

    Args:
        model: its name, for the log.
        dispatcher: its engines.
        serving: the size of the queue, the share of bulk requests, and how often a batch is audited.
        metrics: of the model.
        quarantine: where inputs that fail are remembered.
        unavailable: returns the error of rows if no engine will be ready soon.

    Attributes:
        admission: decides which requests may wait.
    """

    def __init__(
        self,
        model: str,
        dispatcher: Dispatcher,
        serving: ServingConfig,
        metrics: ModelMetrics,
        *,
        quarantine: Quarantine,
        unavailable: Callable[[], GatewayError],
    ) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._unavailable = unavailable
        self._queue = Queue(serving.max_queue_tokens, serving.min_bulk_share)
        self._runner = Runner(model, quarantine, serving.audit_every)
        self._computes_bulk: set[Engine] = set()
        self._runs: set[asyncio.Task[None]] = set()
        self._step_is_due = False
        self.admission = Admission(self._queue, self._runner.capacity, lambda: len(dispatcher.engines))
        dispatcher.subscribe(self._engines_changed)
        metrics.watch_queue(lambda: len(self._queue), lambda: self._queue.tokens)

    def __repr__(self) -> str:
        return f"<Batcher {len(self._queue)} rows, {self._queue.tokens} tokens, {len(self._runs)} running>"

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not len(self._queue) and not self._runs

    def enqueue(self, request: Request) -> None:
        """Queue the rows of a request.

        Raises:
            GatewayError: no engine will be ready soon.
        """
        if not self._dispatcher.worth_waiting:
            raise self._unavailable()
        self._queue.add(request)
        if not self._step_is_due:  # all requests of one turn of the loop may share a batch
            self._step_is_due = True
            asyncio.get_running_loop().call_soon(self.step)

    async def finished(self, request: Request) -> None:
        """Wait until the last row of a request is settled. If it fails or is cancelled, its rows leave the queue.

        Raises:
            GatewayError: the request failed.
        """
        try:
            await request.done
        finally:
            request.done.cancel()
            self._queue.discard(request)

    def step(self) -> None:
        """Give a batch to every engine that can take one. Called when something changed."""
        self._step_is_due = False
        while len(self._queue) and (engine := self._dispatcher.free_engine(MAX_IN_FLIGHT)) is not None:
            batch = self._next_batch(engine)
            if batch is None:
                return
            self._start(engine, batch)

    def _next_batch(self, engine: Engine) -> TakenBatch | None:
        """Take the next batch for an engine. There are three cases.

        1. The engine is idle: it takes the class whose turn it is, however little waits.
        2. It computes bulk rows: it takes interactive rows, however few wait. Bulk rows wait, so that an
           interactive row never waits for more than one bulk batch.
        3. It computes interactive rows: it takes a full interactive batch, unless it is the turn of bulk rows.
        """
        info = engine.info
        if info is None:
            return None
        limits = self._runner.limits(info)
        if not self._dispatcher.in_flight(engine):
            return self._queue.take(self._queue.next_traffic, limits)
        if engine in self._computes_bulk:
            return self._queue.take("interactive", limits)
        if self._queue.next_traffic == "bulk":
            return None
        return self._queue.take("interactive", limits, only_full=True)

    def _start(self, engine: Engine, batch: TakenBatch) -> None:
        self._metrics.batch_inputs.observe(sum(map(len, batch.chunks)))
        self._metrics.batch_tokens.observe(sum(chunk.tokens for chunk in batch.chunks))
        now = time.monotonic()
        for chunk in batch.chunks:
            chunk.request.started = chunk.request.started or now
        if batch.traffic == "bulk":
            self._computes_bulk.add(engine)
        counted = self._dispatcher.computing(engine)
        run = asyncio.get_running_loop().create_task(self._run(engine, batch, counted))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(self, engine: Engine, batch: TakenBatch, counted: AbstractContextManager[None]) -> None:
        """Run and settle a batch. Rows that were lost with the worker wait again."""
        with ExitStack() as place:
            place.push(counted)
            if batch.traffic == "bulk":
                place.callback(self._computes_bulk.discard, engine)
            lost = await self._runner.run(engine, batch.chunks, partial(self._leave, place))
        if self._dispatcher.worth_waiting:
            self._queue.put_back(lost)
        else:
            self._refuse(lost)
        self.step()

    def _leave(self, place: ExitStack) -> None:
        """Give a batch's place on its engine to another, since the search for its failing inputs begins."""
        place.close()
        self.step()

    def _engines_changed(self) -> None:
        if self._dispatcher.worth_waiting:
            self.step()
        else:
            self._refuse(self._queue.clear())

    def _refuse(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            chunk.request.fail_unsettled(chunk.rows, self._unavailable)
