"""An item that an engine fails on is found, and all others of its batch get results."""

from __future__ import annotations

import pytest

from embeddings_gateway.log import get_logger
from embeddings_gateway.workers.engine import (
    BatchMismatch,
    CallFailed,
    CrashedOutOfMemory,
    EngineOutOfMemory,
    InvalidResult,
    WorkerCrashed,
    WorkerGone,
)
from embeddings_gateway.workers.isolation import SEARCH_CRASHES_MAX, FaultIsolation, SearchAborted, parts_of
from tests.workers.fakes import ScriptedEngine

pytestmark = pytest.mark.anyio


class Batch:
    """Items on an engine, and what happens to each.

    Args:
        step: what a run of some items does: raises, or returns the items without a usable result.

    Attributes:
        runs: how many items each run had.
        results: the items with a result.
        failures: item -> its failure.
        crashes: how many runs ended the worker.
    """

    def __init__(self, items, step, engine=None):
        self.items = range(items)
        self.engine = engine or ScriptedEngine()
        self.runs, self.results, self.failures, self.crashes = [], set(), {}, 0
        self._step = step

    async def run(self):
        """Run all items."""
        await FaultIsolation(
            self.engine, self._run, self.failures.__setitem__, self._pending, get_logger()
        ).run(self.items)
        assert self.results | set(self.failures) == set(self.items)
        return self

    def _pending(self, items):
        return [item for item in items if item not in self.results and item not in self.failures]

    async def _run(self, items):
        self.runs.append(len(items))
        try:
            unusable = self._step(items) or []
        except WorkerCrashed:
            self.crashes += 1
            raise
        self.results.update(set(items) - set(unusable))
        return unusable

    @property
    def blamed(self):
        """The items that failed alone, with the kind of their failure."""
        return {item: type(failure) for item, failure in self.failures.items()}


def failing(*culprits, error=WorkerCrashed):
    """Return a step that fails whenever one of these items runs."""

    def step(items):
        if set(items) & set(culprits):
            raise error("signal SIGABRT")

    return step


async def test_happy_path():
    """A batch without failures is one run, and needs nothing else of the engine."""
    batch = await Batch(64, lambda items: []).run()
    assert (batch.runs, batch.engine.log) == ([64], [])
    assert (await Batch(0, lambda items: []).run()).runs == []


@pytest.mark.parametrize("culprit", [0, 17, 63])
async def test_one_killer(culprit):
    """One item of 64 that crashes the worker is found in five crashes, and none of them counts."""
    batch = await Batch(64, failing(culprit)).run()
    assert batch.blamed == {culprit: WorkerCrashed}
    assert batch.crashes == batch.engine.exonerated == 5
    assert batch.engine.log == ["search", *["exclusive"] * (len(batch.runs) - 1), "found"]


async def test_a_handful_of_killers():
    """Five killers among 64, each in another part, are all found, and all crashes are exonerated once."""
    culprits = [1, 9, 17, 33, 63]
    batch = await Batch(64, failing(*culprits)).run()
    assert batch.blamed == dict.fromkeys(culprits, WorkerCrashed)
    assert batch.engine.exonerated == batch.crashes


async def test_too_many_killers():
    """A search that causes too many crashes is aborted: items found so far are blamed, and no others."""
    batch = await Batch(64, failing(*range(64))).run()
    assert batch.crashes == SEARCH_CRASHES_MAX + 2
    assert set(batch.blamed.values()) == {WorkerCrashed, SearchAborted}
    assert batch.engine.exonerated == 0


async def test_crash_with_another_cause():
    """A single crash blames no item, and counts."""
    crashed = []

    def step(items):
        if not crashed:
            crashed.append(1)
            raise WorkerCrashed("signal SIGKILL")

    batch = await Batch(8, step).run()
    assert (batch.runs, batch.failures, batch.engine.exonerated) == ([8, 8], {}, 0)


async def test_failure_without_a_crash():
    """An item that the engine raises on is found alone, beside other calls, once the worker passes its self-test."""
    batch = await Batch(8, failing(5, error=CallFailed)).run()
    assert batch.blamed == {5: CallFailed}
    assert batch.runs == [8, *[1] * 9]
    assert batch.engine.log == ["search", "shared", "check", *["shared"] * 9, "found"]
    assert batch.engine.exonerated == 0


async def test_failure_without_a_crash_among_many():
    """Many items are halved first, until few are left with the one that fails."""
    batch = await Batch(64, failing(5, error=CallFailed)).run()
    assert batch.blamed == {5: CallFailed}
    assert batch.runs == [64, 32, 16, 8, *[1] * 9, 8, 16, 32]


async def test_others_first():
    """Items that work alone get their results before one that fails is tried again."""
    order = []

    def step(items):
        order.extend(items)
        if 0 in items:
            raise CallFailed

    await Batch(3, step).run()
    assert order == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    "step", [failing(0, error=CallFailed), lambda items: items], ids=["fails", "unusable"]
)
async def test_single_item_that_fails(step):
    """A single item that fails without a crash runs once more and is blamed; no search is needed."""
    batch = await Batch(1, step).run()
    assert list(batch.failures) == [0]
    assert (batch.runs, batch.engine.log) == ([1, 1], ["rerun", "check"])


async def test_single_item_that_failed_once():
    """A single item that works the second time is not blamed."""
    left = [CallFailed("once")]

    def step(items):
        if left:
            raise left.pop()

    assert (await Batch(1, step).run()).failures == {}


async def test_single_item_that_fails_and_then_crashes():
    """A single item that fails first and then crashes the worker is searched for like any killer."""
    left = [CallFailed("first")]

    def step(items):
        raise left.pop() if left else WorkerCrashed("signal SIGABRT")

    batch = await Batch(1, step).run()
    assert batch.blamed == {0: WorkerCrashed}
    assert batch.engine.exonerated == batch.crashes == 2


async def test_crash_in_a_search_without_one():
    """A search for an item that merely fails reserves the engine from its first crash on."""
    batch = await Batch(4, lambda items: fail_by(items, {1: CallFailed, 2: WorkerCrashed})).run()
    assert batch.blamed == {1: CallFailed, 2: WorkerCrashed}
    assert batch.engine.log == ["search", "shared", "check", *["shared"] * 3, *["exclusive"] * 3, "found"]


def fail_by(items, failures):
    """Raise the failure of the first of these items that has one."""
    for item in items:
        if item in failures:
            raise failures[item]("it fails")


async def test_search_ends_when_nobody_waits():
    """A search ends as soon as no item is pending, and blames none."""
    gone = []

    class Left(Batch):
        """Items whose clients leave during the second run."""

        def _pending(self, items):
            return [] if gone else super()._pending(items)

        async def run(self):
            await FaultIsolation(
                self.engine, self._run, self.failures.__setitem__, self._pending, get_logger()
            ).run(self.items)

    def step(items):
        if batch.crashes:
            gone.append(True)
        raise WorkerCrashed

    batch = Left(64, step)
    await batch.run()
    assert (batch.crashes, batch.failures, batch.engine.exonerated) == (2, {}, 0)


async def test_too_many_searches():
    """If too many searches wait, items are not blamed, and nothing waits."""

    class Crowded(ScriptedEngine):
        """Others search already."""

        def search(self):
            raise SearchAborted

    batch = await Batch(4, failing(2), Crowded()).run()
    assert batch.blamed == dict.fromkeys(range(4), SearchAborted)
    assert batch.runs == [4]


async def test_sick_worker():
    """A worker that fails its self-test is replaced, and no item is blamed."""
    engine = ScriptedEngine()
    engine.problem = "vectors are not finite"
    batch = await Batch(4, lambda items: items if engine.problem else [], engine).run()
    assert batch.failures == {}
    assert engine.log[:4] == ["search", "shared", "check", "replace: vectors are not finite"]


async def test_worker_that_crashes_in_its_self_test():
    """A worker that crashes while it is verified is restarted, which replaces it: the search goes on."""

    class Crashing(ScriptedEngine):
        """Crashes in its self-test."""

        async def check(self):
            raise WorkerCrashed("signal SIGSEGV")

    assert (await Batch(4, failing(2, error=CallFailed), Crashing()).run()).blamed == {2: CallFailed}


async def test_unusable_results():
    """Items with an unusable result run alone, twice, and are then blamed; the others keep their results."""
    batch = await Batch(6, lambda items: [item for item in items if item in (1, 4)]).run()
    assert batch.blamed == {1: InvalidResult, 4: InvalidResult}
    assert batch.runs == [6, 1, 1, 1, 1]


@pytest.mark.parametrize("error", [EngineOutOfMemory, CrashedOutOfMemory])
async def test_out_of_memory(error):
    """A batch that is too large is split at once, and no item is blamed."""

    def step(items):
        if len(items) > 2:
            raise error("out of memory")

    batch = await Batch(16, step).run()
    assert batch.failures == {}
    half = [8, 4, 2, 2, 4, 2, 2]
    assert batch.runs == [16, *(half + half if error is EngineOutOfMemory else [2] * 8)]


@pytest.mark.parametrize(
    ("errors", "runs"),
    [([BatchMismatch], [4, 1, 1, 1, 1]), ([WorkerCrashed, BatchMismatch], [4, 4, 1, 1, 1, 1])],
    ids=["at once", "in a search"],
)
async def test_wrong_results_of_a_batch(errors, runs):
    """After a mismatch each item runs alone, for only such results can be trusted."""
    left = [*errors]

    def step(items):
        if left:
            raise left.pop(0)("an input gets another result alone")

    batch = await Batch(4, step).run()
    assert (batch.runs, batch.failures) == (runs, {})


async def test_engine_goes_away():
    """When the engine is gone, results stay, and no other item is blamed."""
    batch = Batch(4, failing(3, error=WorkerGone))
    with pytest.raises(WorkerGone):
        await batch.run()
    assert batch.failures == {}


async def test_engine_without_supervision():
    """An engine without supervision is not checked; an item it raises on is found, a crash blames none."""
    engine = ScriptedEngine(supervised=False)
    assert (await Batch(8, failing(3, error=CallFailed), engine).run()).blamed == {3: CallFailed}
    batch = Batch(8, failing(3), engine)
    with pytest.raises(WorkerGone, match="SIGABRT"):
        await batch.run()
    assert (batch.failures, engine.log) == ({}, [])


async def test_items_that_need_no_run_any_more():
    """An item that is no longer pending, because a copy of it was found, is not run again."""
    known = []

    class Copies(Batch):
        """All items are copies of one that crashes the worker."""

        def _pending(self, items):
            return [item for item in super()._pending(items) if not self.failures or known.append(item)]

        async def run(self):
            await FaultIsolation(
                self.engine, self._run, self.failures.__setitem__, self._pending, get_logger()
            ).run(self.items)

    batch = Copies(8, failing(*range(8)))
    await batch.run()
    assert batch.crashes == 4
    assert list(batch.failures) == [0]
    assert set(known) == set(range(1, 8))


def test_parts():
    """Parts are of nearly equal size and in order, and never more than asked for."""
    assert [list(part) for part in parts_of(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [len(part) for part in parts_of(range(64), 8)] == [8] * 8
    assert parts_of([4], 8) == [[4]]
