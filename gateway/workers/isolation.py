"""Items are run together; those that fail are run apart, until those that fail by themselves are found.

The others get their answers. It is the same whether the worker died, said that it failed, or gave an answer
that cannot be right, and whether the items are texts for a tokenizer or inputs for a model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from embeddings_gateway.log import Logger
from embeddings_gateway.workers.worker import (
    CallFailed,
    Mistaken,
    OutOfMemory,
    Worker,
    WorkerDied,
    WrongAnswer,
)

I = TypeVar("I")  # noqa: E741 - an item
O = TypeVar("O")  # noqa: E741 - its outcome

ALONE_MAX = 2
"""An item that fails so often by itself is to blame; once might have been somebody else's doing."""

PARTS_AFTER_DEATH = 8
"""A start costs seconds and a small batch milliseconds: smaller parts find a killer in fewer deaths."""

PARTS = 2

SEARCH_DEATHS_MAX = 16
"""Workers that a search may cost beside the one it began with: five killers among 64 are found in so many."""


class GivenUp(Exception):
    """The search cost too many workers: who else is to blame is not known, and nobody is blamed for it."""


class Isolation(Generic[I, O]):
    """A batch of items on a worker, and the search among them if they fail.

    Args:
        worker: which runs them; nobody else uses it during a search.
        call: runs items; returns for each its outcome, or ``None`` where that is unusable.
        tell: is told each item with its outcome, with the failure that it alone is to blame for, or that the
            search was given up before anything was known of it.
        still: returns those of some items that are still to be run.
        log: knows the model.
    """

    def __init__(
        self,
        worker: Worker,
        call: Callable[[Sequence[I]], Awaitable[Sequence[O | None]]],
        tell: Callable[[I, O | CallFailed | GivenUp], None],
        still: Callable[[Sequence[I]], Sequence[I]],
        log: Logger,
    ) -> None:
        self._worker = worker
        self._call = call
        self._tell = tell
        self._still = still
        self._log = log
        self._by_themselves = False  # since only such answers can be trusted
        self._deaths = 0
        self._explained = False

    async def run(self, items: Sequence[I]) -> None:
        """Run the items, and tell each what becomes of it.

        Raises:
            WorkerLost: there is no worker any more; who was not told yet is not to blame.
        """
        if not (items := self._still(items)):
            return
        failure = None
        try:
            items = self._tell_usable(items, await self._call(items))
        except CallFailed as error:
            failure = error
        if items:
            self._log.warning("batch failed", inputs=len(items), reason=str(failure or "unusable outcomes"))
            await self._search(items, failure)

    async def _search(self, items: Sequence[I], failure: CallFailed | None) -> None:
        """Search the guilty.

        Args:
            items: those that have no outcome yet.
            failure: of all of them; ``None`` if each has an unusable outcome of its own.
        """
        async with self._worker.alone():
            try:
                await self._begin(items, failure)
            except GivenUp as error:
                left = self._still(items)
                self._log.error("search given up", deaths=self._deaths, left=len(left))
                for item in left:
                    self._tell(item, error)
            else:
                if self._explained:
                    self._worker.explained(self._deaths + isinstance(failure, WorkerDied))

    async def _begin(self, items: Sequence[I], failure: CallFailed | None) -> None:
        """Begin as the failure suggests; raises as :meth:`run`, and ``GivenUp``."""
        if not isinstance(failure, WorkerDied):
            await self._assure()
        self._by_themselves = isinstance(failure, Mistaken)
        if failure is None or self._by_themselves:
            await self._one_by_one(items)
        elif len(items) > 1 and isinstance(failure, OutOfMemory):
            await self._apart(items, failure)
        else:
            await self._again(items, chances=1)

    async def _again(self, items: Sequence[I], chances: int) -> None:
        """Run the items together up to so many times, and then apart."""
        while items := self._still(items):
            if self._deaths > SEARCH_DEATHS_MAX:
                raise GivenUp
            if self._by_themselves and len(items) > 1:
                await self._one_by_one(items)
                return
            try:
                unusable = self._tell_usable(items, await self._call(items))
            except CallFailed as failure:
                self._deaths += isinstance(failure, WorkerDied)
                if isinstance(failure, Mistaken):
                    self._by_themselves = True
                    continue
                chances -= 1
                if not chances or (len(items) > 1 and isinstance(failure, OutOfMemory)):
                    await self._apart(items, failure)
                    return
            else:
                if len(items) > 1:
                    await self._one_by_one(unusable)
                    return
                chances -= 1
                if unusable and not chances:
                    await self._apart(items, WrongAnswer("an unusable outcome"))
                if not unusable or not chances:
                    return

    async def _one_by_one(self, items: Sequence[I]) -> None:
        for item in items:
            await self._again([item], ALONE_MAX)

    async def _apart(self, items: Sequence[I], failure: CallFailed) -> None:
        """Blame an item that is by itself; run the parts of more."""
        if len(items) == 1:
            self._log.warning("input failed by itself", reason=str(failure))
            self._explained |= isinstance(failure, WorkerDied)
            self._tell(items[0], failure)
            return
        parts = PARTS_AFTER_DEATH if isinstance(failure, WorkerDied) else PARTS
        for part in split(items, parts):
            await self._again(part, ALONE_MAX if len(part) == 1 else 1)

    async def _assure(self) -> None:
        """See to it that the worker is well, so that its failures are the items' doing."""
        try:
            if wrong := await self._worker.check():
                await self._worker.replace(wrong)
        except WorkerDied:  # of its self-test: it is started anew as well
            pass

    def _tell_usable(self, items: Sequence[I], outcomes: Sequence[O | None]) -> list[I]:
        """Tell the items that have an outcome, and return the others."""
        unusable = []
        for item, outcome in zip(items, outcomes, strict=True):
            if outcome is None:
                unusable.append(item)
            else:
                self._tell(item, outcome)
        return unusable


def split(items: Sequence[I], parts: int) -> list[Sequence[I]]:
    """Return the items in at most so many parts of nearly equal size, in order."""
    size = -(-len(items) // parts)
    return [items[begin : begin + size] for begin in range(0, len(items), size)]
