"""Runs a batch on an engine, and settles each of its rows with a result or an error."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from embeddings_gateway.backends.base import Batch, ModelInfo, Output
from embeddings_gateway.batching import checks
from embeddings_gateway.batching.chunks import Chunk
from embeddings_gateway.batching.planner import Limits, cost
from embeddings_gateway.batching.request import Rows
from embeddings_gateway.batching.speed import MemoryLimit, Speed
from embeddings_gateway.errors import GatewayError, InputFailed, InternalError, ModelUnavailable, RetryAfter
from embeddings_gateway.log import get_logger
from embeddings_gateway.workers.engine import (
    BatchMismatch,
    CallFailed,
    Engine,
    EngineOutOfMemory,
    EngineResult,
    SearchAborted,
    Supervised,
    WorkerGone,
)
from embeddings_gateway.workers.isolation import FaultIsolation, Quarantine


class RunningBatch:
    """The rows of several requests as the items 0, 1, ... of one batch.

    Attributes:
        batch: the token ids of all items.
        outputs: what is computed of each.
        open: bool ``[items]``, whether an item has neither a result nor an error yet.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = chunks
        self.outputs: tuple[Output, ...] = chunks[0].request.outputs
        parts = [chunk.request.batch.select(chunk.rows) for chunk in chunks]
        self.batch = parts[0] if len(parts) == 1 else Batch.concat(parts)
        self._ends = np.cumsum([len(chunk) for chunk in chunks])
        self.open = np.ones(len(self.batch), np.bool_)

    def __len__(self) -> int:
        return len(self.batch)

    def settle(self, items: Rows, result: EngineResult) -> None:
        """Give items their results; entry ``i`` of each column belongs to ``items[i]``."""
        self.open[items] = False
        begin = first = 0
        lasts = self._ends if len(items) == len(self) else np.searchsorted(items, self._ends)
        for chunk, end, last in zip(self.chunks, self._ends.tolist(), lasts.tolist(), strict=True):
            if last > first:
                rows = chunk.rows if last - first == len(chunk) else chunk.rows[items[first:last] - begin]
                columns = {output: column.part(first, last) for output, column in result.columns.items()}
                chunk.request.settle(rows, columns)
            begin, first = end, last

    def fail(self, item: int, error: GatewayError) -> None:
        """Give an item its error."""
        chunk, position = self._place(item)
        self.open[item] = False
        row = int(chunk.rows[position])
        param = f"input[{chunk.request.input_of(row)}]" if error.of_the_input else error.param
        chunk.request.fail(row, error if param is None else error.about(param))

    def pending(self, items: Sequence[int]) -> Sequence[int]:
        """Return which of some items are open, except those that nobody waits for any more.

        Those of a request that has failed are among them: it may be sent again.
        """
        has_left = [chunk.request.done.cancelled() for chunk in self.chunks]
        if self.open.all() and len(items) == len(self) and not any(has_left):
            return items
        sizes = np.diff(self._ends, prepend=0)
        pending = self.open & ~np.repeat(has_left, sizes)
        return [item for item in items if pending[item]]

    def still_open(self) -> list[Chunk]:
        """Return the rows without a result or an error whose requests are not over."""
        chunks = []
        begin = 0
        for chunk, end in zip(self.chunks, self._ends.tolist(), strict=True):
            positions = np.flatnonzero(self.open[begin:end])
            if len(positions) and not chunk.request.done.done():
                chunks.append(chunk.part(positions))
            begin = end
        return chunks

    def _place(self, item: int) -> tuple[Chunk, int]:
        number = int(np.searchsorted(self._ends, item, side="right"))
        begin = int(self._ends[number - 1]) if number else 0
        return self.chunks[number], item - begin


class Runner:
    """Runs batches on the engines of one model, and learns its speed and its memory limit.

    Args:
        model: its name, for the log.
        quarantine: where inputs that fail are remembered.
        audit_every: an input of one in so many batches is computed again, alone; 0: of none.

    Attributes:
        speed: of an engine in all batches.
        capacity: of an engine in full batches: how fast it is under load.
    """

    def __init__(self, model: str, quarantine: Quarantine, audit_every: int) -> None:
        self.speed = Speed()
        self.capacity = Speed()
        self._log = get_logger().bind(model=model, work="run")
        self._quarantine = quarantine
        self._memory = MemoryLimit()
        self._audit_every = audit_every
        self._untested = 0  # batches
        self._unaudited = 0  # batches of several inputs

    def limits(self, info: ModelInfo) -> Limits:
        """Return the limits of a batch now."""
        return Limits(info.cost, self._memory.cap(info.max_batch_tokens), info.max_batch_inputs)

    async def run(
        self, engine: Engine, chunks: Sequence[Chunk], on_search: Callable[[], None] = lambda: None
    ) -> list[Chunk]:
        """Run a batch and settle its rows; after a failure, search for the inputs at fault.

        Args:
            engine: it is ready.
            chunks: the rows.
            on_search: called when the batch leaves the engine to others, and a search for inputs begins.

        Returns:
            Rows that were lost with the worker and are not at fault, of requests that are not over.
        """
        try:
            running = RunningBatch(chunks)
            isolation = FaultIsolation(
                engine,
                partial(self._run, engine, running),
                partial(self._fail, running),
                partial(self._pending, running),
                self._log,
                on_search=on_search,
            )
            if not engine.ready:  # since the batch was taken
                return running.still_open()
            await isolation.run(range(len(running)))
        except WorkerGone:
            return running.still_open()
        except Exception:  # a bug: the requests must still get an answer
            self._log.exception("batch failed", inputs=sum(map(len, chunks)))
            for chunk in chunks:
                chunk.request.fail_unsettled(chunk.rows, InternalError)
        return []

    async def _run(self, engine: Engine, running: RunningBatch, items: Sequence[int]) -> Sequence[int]:
        """Compute items, settle those with a usable result, and return the others."""
        info = engine.info
        if info is None:
            raise WorkerGone
        rows = np.asarray(items, np.int64)
        batch = running.batch if len(rows) == len(running) else running.batch.select(rows)
        limits = self.limits(info)
        batch_cost = cost(batch.lengths, limits)
        timeout_s = self.speed.timeout_s(batch_cost, engine.tokens_per_s)
        try:
            result = await engine.run(batch, running.outputs, timeout_s)
        except EngineOutOfMemory:
            if len(batch) > 1:
                self._memory.exceeded(batch_cost)
            raise
        is_usable = checks.usable(result.columns, len(batch), running.outputs, info)
        await self._audit(engine, info, batch, result, is_usable)
        self._learn(batch, batch_cost, limits, result.seconds)
        if is_usable.all():
            running.settle(rows, result)
            return ()
        usable = np.flatnonzero(is_usable)
        columns = {output: column.select(usable) for output, column in result.columns.items()}
        running.settle(rows[usable], EngineResult(columns, result.seconds))
        unusable: list[int] = rows[~is_usable].tolist()
        return unusable

    def _learn(self, batch: Batch, batch_cost: int, limits: Limits, seconds: float) -> None:
        now = time.monotonic()
        self._memory.sufficed(batch_cost)
        self.speed.observe(batch.tokens, seconds, now)
        if 2 * batch_cost >= limits.max_tokens or len(batch) == limits.max_inputs:
            self.capacity.observe(batch.tokens, seconds, now)

    async def _audit(
        self, engine: Engine, info: ModelInfo, batch: Batch, result: EngineResult, is_usable: checks.Mask
    ) -> None:
        """Test the engine at every ``audit_every``-th batch, and compute an input of the batch again, alone.

        Raises:
            WorkerGone: the engine no longer gives what it gave when it was started, and is replaced.
            BatchMismatch: the result of the input is another one alone.
        """
        if not self._audit_every:
            return
        self._untested = (self._untested + 1) % self._audit_every
        if not self._untested and engine.supervised is not None:
            await self._test(engine.supervised)
        if len(batch) < 2 or not is_usable.any():
            return
        self._unaudited = (self._unaudited + 1) % self._audit_every
        if not self._unaudited:
            await self._compare_alone(engine, info, batch, result, is_usable)

    async def _test(self, supervised: Supervised) -> None:
        if problem := await supervised.check():
            await supervised.replace(problem)
            raise WorkerGone(problem)

    async def _compare_alone(
        self, engine: Engine, info: ModelInfo, batch: Batch, result: EngineResult, is_usable: checks.Mask
    ) -> None:
        """Compute an input of a batch again, alone; raise BatchMismatch if its result is another one."""
        chosen = np.array([random.choice(np.flatnonzero(is_usable).tolist())])  # noqa: S311 - a sample, no secret
        single = batch.select(chosen)
        outputs: tuple[Output, ...] = tuple(result.columns)
        alone = await engine.run(single, outputs, self.speed.timeout_s(single.tokens, engine.tokens_per_s))
        in_batch = {output: column.select(chosen) for output, column in result.columns.items()}
        if not checks.usable(alone.columns, 1, outputs, info).all() or not checks.same(
            in_batch, alone.columns, info
        ):
            raise BatchMismatch("an input has another result alone")

    def _pending(self, running: RunningBatch, items: Sequence[int]) -> Sequence[int]:
        """Return the items that somebody waits for, after failing those that are known to fail."""
        if len(self._quarantine):
            contents = running.batch.split()
            for item in items:
                if running.open[item] and contents[item].tobytes() in self._quarantine:
                    running.fail(item, InputFailed("The model fails on this input."))
        return running.pending(items)

    def _fail(self, running: RunningBatch, item: int, failure: CallFailed | SearchAborted) -> None:
        """Give an item its error; remember an input that failed alone."""
        if isinstance(failure, SearchAborted):
            running.fail(item, search_aborted())
            return
        self._quarantine.add(running.batch.split()[item].tobytes(), failure)
        running.fail(item, InputFailed("The model fails on this input."))


def search_aborted() -> ModelUnavailable:
    """Return the error of an input that an aborted search leaves unknown."""
    return ModelUnavailable("The model's workers died too often.", "model", RetryAfter.SEARCH_ABORTED)
