"""Finds the inputs that an engine fails on, so that all other inputs of their batch get results.

Items run together. If they fail, they run again in smaller parts, until the items that fail alone are known.
The search is the same if the worker crashes, reports a failure or gives an unusable result, and the same for texts
of a tokenizer and inputs of a model. A single item that fails without a crash needs no search.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from embeddings_gateway.log import Logger
from embeddings_gateway.workers.engine import (
    BatchMismatch,
    CallFailed,
    Engine,
    EngineOutOfMemory,
    InvalidResult,
    SearchAborted,
    Supervised,
    WorkerCrashed,
    WorkerGone,
)

SINGLE_RUNS_MAX = 2
"""An item that fails so many times alone is blamed. One failure may have another cause."""

PARTS_AFTER_CRASH = 8
"""A restart takes seconds and a small batch milliseconds: more parts mean fewer crashes until an item is found."""

PARTS = 2

EACH_ALONE_MAX = 8
"""So many items that failed without a crash run alone at once: that costs about as much as running them together."""

SEARCH_CRASHES_MAX = 16
"""More crashes than this abort a search; the one that it began with does not count. Five items of 64 are found."""

KILLER_REMEMBERED_S = 600.0
FAILING_REMEMBERED_S = 60.0
MAX_REMEMBERED = 4096


class FaultIsolation:
    """One batch of items on an engine, and the search for those that fail.

    An engine that is not supervised cannot be checked or replaced. No item is blamed for its crashes; they are
    raised as :class:`WorkerGone`.

    Args:
        engine: runs the items. Between the steps of a search it takes other calls.
        run: runs items and delivers each usable result; returns the items without one.
        on_failure: gets each item that failed alone, with the failure, and each item that an aborted search
            leaves unknown.
        pending: returns which of some items still have to run. A search ends when there are none.
        log: carries the model's name.
        on_search: called before a search, which takes its own time of the engine.
    """

    def __init__(
        self,
        engine: Engine,
        run: Callable[[Sequence[int]], Awaitable[Sequence[int]]],
        on_failure: Callable[[int, CallFailed | SearchAborted], None],
        pending: Callable[[Sequence[int]], Sequence[int]],
        log: Logger,
        *,
        on_search: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._on_failure = on_failure
        self._pending = pending
        self._log = log
        self._on_search = on_search
        self._supervised: Supervised = engine.supervised or _Unsupervised()
        self._crashes_blame = engine.supervised is not None
        self._only_alone = False  # after a BatchMismatch only results of single items are trusted
        self._exclusive = False  # after a crash: only then it is certain which call caused another one
        self._crashes = 0
        self._found_cause = False  # whether an item crashed the worker alone

    async def run(self, items: Sequence[int]) -> None:
        """Run the items until each has a result or a failure, or is no longer pending.

        Raises:
            WorkerGone: the engine is gone. Items that are still pending are not blamed.
        """
        items = self._pending(items)
        if len(items) == 0:
            return
        failure = None
        try:
            items = await self._call(items)
        except CallFailed as error:
            failure = error
        if len(items):
            reason = str(failure or "unusable results")
            self._log.warning("batch failed, searching for the cause", inputs=len(items), reason=reason)
            if len(items) == 1 and not isinstance(failure, WorkerCrashed):
                await self._rerun(items[0], failure)
            else:
                await self._search(items, failure)

    async def _call(self, items: Sequence[int]) -> Sequence[int]:
        try:
            return await self._run(items)
        except WorkerCrashed as error:
            if self._crashes_blame:
                raise
            raise WorkerGone(str(error)) from error

    async def _rerun(self, item: int, failure: CallFailed | None) -> None:
        """Run a single item again, beside the engine's other calls, and blame it if it fails once more.

        This costs little more than the item itself, so it takes no part in the searches' share of time.
        """
        self._on_search()
        try:
            async with self._supervised.rerun():
                await self._verify_worker()
                if len(self._pending([item])) and len(await self._call([item])):
                    self._blame(item, failure or InvalidResult("an unusable result"))
        except WorkerCrashed as error:
            await self._search([item], error)
        except CallFailed as error:
            self._blame(item, error)

    async def _search(self, items: Sequence[int], failure: CallFailed | None) -> None:
        """Find the items that fail alone.

        Args:
            items: those without a usable result.
            failure: of all items together; ``None`` if each has an unusable result of its own.
        """
        self._on_search()
        try:
            async with self._supervised.search():
                await self._begin(items, failure)
                if self._found_cause:
                    self._supervised.exonerate(self._crashes + isinstance(failure, WorkerCrashed))
        except SearchAborted as error:
            unknown = self._pending(items)
            self._log.error("search aborted", crashes=self._crashes, unknown=len(unknown))
            for item in unknown:
                self._on_failure(item, error)

    async def _step(self, items: Sequence[int]) -> Sequence[int]:
        """Run items as one step of a search; return those without a usable result."""
        async with self._supervised.step(exclusive=self._exclusive):
            items = self._pending(items)  # the step may have waited
            return await self._call(items) if len(items) else ()

    async def _begin(self, items: Sequence[int], failure: CallFailed | None) -> None:
        """Take the first step of the search. There are three cases.

        1. Each item has an unusable result of its own, or results of batches are wrong: run each alone.
        2. The worker crashed: run all together once more, something else may have been the cause.
        3. The engine failed, or memory ran out: run smaller parts.

        A worker that did not crash is verified first: if it fails its self-test, no item is to blame.
        """
        self._exclusive = isinstance(failure, WorkerCrashed)
        if not self._exclusive:
            async with self._supervised.step(exclusive=False):
                await self._verify_worker()
        self._only_alone = isinstance(failure, BatchMismatch)
        if failure is None or self._only_alone:
            await self._each_alone(items)
        elif len(items) == 1 or (self._exclusive and not isinstance(failure, EngineOutOfMemory)):
            await self._retry(items, runs=1)
        else:
            await self._split(items, failure)

    async def _retry(self, items: Sequence[int], runs: int) -> None:
        """Run the items together, at most ``runs`` times. Then blame a single item, or split several.

        Raises:
            SearchAborted: the search has caused too many crashes.
        """
        while len(items := self._pending(items)):  # 1. Nothing is pending: done.
            # 2. Too many crashes: the rest stays unknown.
            if self._crashes > SEARCH_CRASHES_MAX:
                raise SearchAborted
            # 3. A batch of this search had wrong results: do not run several together.
            if self._only_alone and len(items) > 1:
                await self._each_alone(items)
                return
            unusable = items
            failure: CallFailed | None = None
            try:
                unusable = await self._step(items)
            except CallFailed as error:
                failure = error
                self._note(error)
            # 4. The call succeeded: items without a usable result run alone, if they did not already.
            if len(unusable) == 0:
                return
            if failure is None and len(items) > 1:
                await self._each_alone(unusable)
                return
            # 5. The batch had wrong results: it cannot be split either, the next round takes the third exit.
            if self._only_alone and len(items) > 1:
                continue
            # 6. The items failed too often, or are too large together: one is blamed, several are split.
            runs -= 1
            if not runs or (len(items) > 1 and isinstance(failure, EngineOutOfMemory)):
                await self._split(items, failure or InvalidResult("an unusable result"))
                return

    def _note(self, failure: CallFailed) -> None:
        """Remember what a failure of a step means for the next ones."""
        crashed = isinstance(failure, WorkerCrashed)
        self._crashes += crashed
        self._exclusive |= crashed
        self._only_alone |= isinstance(failure, BatchMismatch)

    async def _each_alone(self, items: Sequence[int]) -> None:
        """Run each item alone. Those that fail run again after all others, which wait for their results."""
        failed = [item for item in items if not await self._works_alone(item)]
        for item in failed:
            await self._retry([item], SINGLE_RUNS_MAX - 1)

    async def _works_alone(self, item: int) -> bool:
        """Run an item alone; return whether it need not run again.

        Raises:
            SearchAborted: the search has caused too many crashes.
        """
        if self._crashes > SEARCH_CRASHES_MAX:
            raise SearchAborted
        try:
            return not len(await self._step([item]))
        except CallFailed as error:
            self._note(error)
            return False

    async def _split(self, items: Sequence[int], failure: CallFailed) -> None:
        """Blame a single item for the failure; run several in parts."""
        is_crash = isinstance(failure, WorkerCrashed)
        if len(items) == 1:
            self._blame(items[0], failure)
        elif len(items) <= EACH_ALONE_MAX and not is_crash and not isinstance(failure, EngineOutOfMemory):
            await self._each_alone(items)
        else:
            for part in parts_of(items, PARTS_AFTER_CRASH if is_crash else PARTS):
                await self._retry(part, SINGLE_RUNS_MAX if len(part) == 1 else 1)

    def _blame(self, item: int, failure: CallFailed) -> None:
        self._log.warning("input failed alone", reason=str(failure))
        self._found_cause |= isinstance(failure, WorkerCrashed)
        self._on_failure(item, failure)

    async def _verify_worker(self) -> None:
        """Make sure that the worker passes its self-test, so that the next failures are the items' own."""
        try:
            if problem := await self._supervised.check():
                await self._supervised.replace(problem)
        except WorkerCrashed:  # in its self-test: it is restarted, which replaces it as well
            pass


class _Unsupervised:
    """A null object for engines that are not supervised."""

    def search(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def rerun(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def step(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def check(self) -> str:
        return ""

    async def replace(self, reason: str) -> None:
        """Do nothing: :meth:`check` finds no reason."""

    def exonerate(self, crashes: int) -> None:
        """Do nothing: no crash is counted."""


def parts_of(items: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Return the items in at most ``parts`` parts of nearly equal size, in order."""
    size = -(-len(items) // parts)
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


class Quarantine:
    """The inputs that are known to crash a worker, or to fail. Only a keyed hash of each is kept.

    An input that crashes a worker is remembered for ten minutes, one that merely fails for one.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._killers = _Remembered(KILLER_REMEMBERED_S, clock)
        self._failing = _Remembered(FAILING_REMEMBERED_S, clock)

    def __len__(self) -> int:
        return len(self._killers) + len(self._failing)

    def add(self, content: bytes, failure: CallFailed) -> None:
        """Remember an input that failed alone, unless only memory was lacking: something else may have used it.

        Args:
            content: the bytes of its token ids, or of its text.
            failure: how it failed.
        """
        if isinstance(failure, EngineOutOfMemory):
            return
        remembered = self._killers if isinstance(failure, WorkerCrashed) else self._failing
        remembered.add(self._digest(content))

    def __contains__(self, content: bytes) -> bool:
        if not len(self):
            return False
        digest = self._digest(content)
        return digest in self._killers or digest in self._failing

    def _digest(self, content: bytes) -> bytes:
        return hashlib.blake2b(content, key=self._key, digest_size=16).digest()


class _Remembered:
    """Digests, each for the same time, and at most ``MAX_REMEMBERED``."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, digest: bytes) -> None:
        self._until[digest] = self._clock() + self._seconds
        self._until.move_to_end(digest)
        if len(self._until) > MAX_REMEMBERED:
            self._until.popitem(last=False)

    def __contains__(self, digest: bytes) -> bool:
        while self._until and next(iter(self._until.values())) <= self._clock():
            self._until.popitem(last=False)
        return digest in self._until
