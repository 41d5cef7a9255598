"""A bad input, a wrong result or a lost worker harms nobody but whom it has to."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from embeddings_gateway.backends.base import Batch, Column
from embeddings_gateway.batching.request import Request
from embeddings_gateway.errors import InputFailed, InternalError, ModelUnavailable
from embeddings_gateway.workers.engine import (
    CallFailed,
    EngineOutOfMemory,
    WorkerCrashed,
    WorkerGone,
)
from embeddings_gateway.workers.isolation import SEARCH_CRASHES_MAX
from tests.batching.test_batcher import FULL, finish_all, make_batcher
from tests.gateway.fakes import (
    BACKEND,
    OUTPUTS,
    AnsweringEngine,
    HeldEngine,
    all_quiet,
    is_right,
    make_info,
    make_request,
    right,
    right_vectors,
    same,
    vectors,
)

pytestmark = pytest.mark.anyio


def guilty_of(*requests_and_rows):
    """Return a function that tells which inputs of a batch are these."""
    contents = {request.batch.split()[row].tobytes() for request, row in requests_and_rows}
    return lambda batch: [item for item, ids in enumerate(batch.split()) if ids.tobytes() in contents]


def failing(*guilty, error=CallFailed):
    """Return an answer that fails on a batch with one of these inputs."""
    find = guilty_of(*guilty)

    def answer(batch, outputs):
        if find(batch):
            raise error("it fails")
        return right(batch, outputs)

    return answer


async def run(metrics, answer, *requests, **facts):
    """Run the requests in one batch on an engine that answers so; return the engine."""
    engine = AnsweringEngine(answer, make_info(**{"max_batch_tokens": 512, "max_batch_inputs": 64, **facts}))
    batcher = engine.batcher = make_batcher(metrics, engine)
    engine.to("restarting")
    for request in requests:
        batcher.enqueue(request)
    engine.to("ready")
    await all_quiet()
    assert batcher.idle
    return engine


def kept(request, *failed):
    """Tell whether the rows that did not fail have their vectors, and just these have none."""
    rest = np.delete(np.arange(len(request.batch)), list(failed))
    return (
        sorted(request.errors) == sorted(failed)
        and all(isinstance(error, InputFailed) for error in request.errors.values())
        and all(error.param == f"input[{row}]" for row, error in request.errors.items())
        and np.array_equal(vectors(request)[rest], right_vectors(request.batch)[rest])
    )


async def test_only_the_guilty_input_fails(metrics):
    """A batch that the engine fails on is halved until only the input that it fails on fails."""
    good, bad, partial = make_request(3, 4), make_request(3, 4, 5), make_request(4, 4, 4, partial=True)
    engine = await run(metrics, failing((bad, 2), (partial, 1)), good, bad, partial)
    assert len(engine.batches[0]) == 8
    assert is_right(good)
    assert isinstance(bad.done.exception(), InputFailed)
    assert bad.done.exception().param == "input[2]"
    assert kept(partial, 1)


@pytest.mark.parametrize("output", OUTPUTS)
async def test_unusable_in_one_output(metrics, output):
    """An input whose result is unusable in one of its outputs fails as a whole; the others have all theirs."""
    batch = BACKEND.tokenize(["ab", "bad", "cde", "f"])
    request = Request(batch, OUTPUTS, partial=True)
    guilty = guilty_of((request, 1))

    def answer(batch, outputs):
        columns = right(batch, outputs)
        for item in guilty(batch):
            column = columns[output]
            at = item if column.offsets is None else column.offsets[item]
            column.values[at] = np.nan
        return columns

    await run(metrics, answer, request)
    assert {row: error.param for row, error in request.errors.items()} == {1: "input[1]"}
    rest, expected = np.array([0, 2, 3]), right(batch, OUTPUTS)
    for name, column in request.columns().items():
        assert same(column.select(rest), expected[name].select(rest))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    "misshape",
    [
        lambda column: column.select(np.arange(len(column) - 1)),
        lambda column: column.select(np.append(np.arange(len(column)), 0)),
        lambda column: dataclasses.replace(column, values=np.hstack([column.values] * 2)),
        lambda column: Column(column.values.ravel()),
    ],
    ids=["an input too few", "an input too many", "too wide", "flat"],
)
async def test_misshaped_result(metrics, output, misshape):
    """No row of a column of the wrong count or width is used, and only the input that caused it fails."""
    good = Request(BACKEND.tokenize(["ab", "c"]), (output,))
    bad = Request(BACKEND.tokenize(["x", "yy", "zzz"]), (output,), partial=True)
    guilty = guilty_of((bad, 1))

    def answer(batch, outputs):
        columns = right(batch, outputs)
        return {output: misshape(columns[output])} if guilty(batch) else columns

    await run(metrics, answer, good, bad)
    assert same(good.columns()[output], right(good.batch, [output])[output])
    assert {row: error.param for row, error in bad.errors.items()} == {1: "input[1]"}


@pytest.mark.parametrize("is_last", [False, True])
async def test_lost_worker(metrics, is_last):
    """Rows that were lost with a worker are computed by another, or refused if none will be ready soon."""
    dying, living = HeldEngine(), HeldEngine()
    batcher = make_batcher(metrics, dying, living)
    requests = [make_request(FULL) for _ in range(6)]
    for request in requests:
        batcher.enqueue(request)
    await all_quiet()
    for engine in (dying, living) if is_last else (dying,):
        engine.to("broken")
        for running in list(engine.running):
            running.fail(WorkerGone())
    await all_quiet()
    if is_last:
        assert {type(request.done.exception()) for request in requests} == {ModelUnavailable}
    else:
        await finish_all(batcher, living)
        assert all(map(is_right, requests))
    assert batcher.idle


def killing(*killers):
    """Return an answer that ends the worker on a batch with one of these inputs, and the list of crashes."""
    guilty, crashes = guilty_of(*killers), []

    def answer(batch, outputs):
        if guilty(batch):
            crashes.append(len(batch))
            raise WorkerCrashed("signal SIGABRT")
        return right(batch, outputs)

    return answer, crashes


async def test_a_handful_of_killers(metrics):
    """Five crashing inputs among 64, each in another part, are all blamed, and all crashes are exonerated once."""
    first, second = make_request(*[3] * 32, partial=True), make_request(*[3] * 32, partial=True)
    answer, crashes = killing((first, 1), (first, 9), (first, 17), (second, 1), (second, 31))
    engine = await run(metrics, answer, first, second)
    assert kept(first, 1, 9, 17)
    assert kept(second, 1, 31)
    assert engine.exonerated == len(crashes)


async def test_too_many_killers(metrics):
    """A search that costs too many workers is aborted: unknown inputs may be sent again, no crash is exonerated."""
    requests = [make_request(3, partial=True) for _ in range(64)]
    answer, crashes = killing(*((request, 0) for request in requests))
    engine = await run(metrics, answer, *requests)
    assert len(crashes) <= SEARCH_CRASHES_MAX + 3
    blamed = [request for request in requests if isinstance(request.errors[0], InputFailed)]
    rest = [request.done.exception() for request in requests if request not in blamed]
    assert blamed
    assert rest
    assert all(isinstance(error, ModelUnavailable) and error.retry_after for error in rest)
    assert engine.exonerated == 0
    again = Request(blamed[0].batch, partial=True)
    engine.batcher.enqueue(again)
    await all_quiet()
    assert isinstance(again.errors[0], InputFailed)


async def test_killer_that_nobody_waits_for(metrics):
    """An input whose client has left is not searched for; the others of its batch are computed."""
    request, other = make_request(3), make_request(3)
    kill, crashes = killing((request, 0))

    def answer(batch, outputs):
        request.done.cancel()
        return kill(batch, outputs)

    engine = await run(metrics, answer, request, other)
    assert crashes == [2]
    assert engine.exonerated == 0
    assert is_right(other)


async def test_failing_input_that_comes_again(metrics):
    """An input that the engine failed on is refused without a run when it comes again."""
    bad = make_request(3)
    engine = await run(metrics, failing((bad, 0)), bad)
    assert isinstance(bad.done.exception(), InputFailed)
    engine.batches.clear()
    again = Request(bad.batch)
    engine.batcher.enqueue(again)
    await all_quiet()
    assert isinstance(again.done.exception(), InputFailed)
    assert engine.batches == []


async def test_others_are_computed_during_a_search(metrics):
    """While a search for a failing input waits, its engine computes other batches, one at a time as before."""
    engine = HeldEngine(make_info(max_batch_tokens=512))
    batcher = make_batcher(metrics, engine)
    bad, others = make_request(3, 3), [make_request(3) for _ in range(2)]
    batcher.enqueue(bad)
    await all_quiet()
    engine.running[0].fail(CallFailed("it fails"))
    await all_quiet()
    for other in others:
        batcher.enqueue(other)
        await all_quiet()
    assert [len(running.batch) for running in engine.running] == [1, 1]
    engine.running[1].finish()
    await all_quiet()
    assert is_right(others[0])
    while engine.running:
        engine.running[0].finish()
        await all_quiet()
    assert all(map(is_right, (bad, *others)))
    assert batcher.idle


async def test_copies_of_a_killer(metrics):
    """Of an input that crashes workers and comes many times, one is searched for; the others are known."""
    killer = make_request(3)
    copies = Request(Batch.concat([killer.batch] * 8), partial=True)
    good = make_request(3, 3)
    answer, crashes = killing((killer, 0))
    engine = await run(metrics, answer, copies, good)
    assert len(copies.errors) == 8
    assert crashes == [10, 10, 2, 1, 1]
    assert is_right(good)
    again = Request(Batch.concat([good.batch, killer.batch]))
    engine.batcher.enqueue(again)
    await all_quiet()
    assert again.done.exception().param == "input[2]"
    assert len(crashes) == 5


async def test_out_of_memory(metrics):
    """A batch that memory runs out on is halved before an input is blamed, and later ones are smaller."""
    request, later = make_request(*[4] * 16), make_request(*[4] * 16)

    def answer(batch, outputs):
        if batch.tokens > 20:
            raise EngineOutOfMemory("MemoryError")
        return right(batch, outputs)

    engine = await run(metrics, answer, request, max_batch_tokens=64)
    assert is_right(request)
    assert [len(batch) for batch in engine.batches][:3] == [16, 8, 4]
    engine.batches.clear()
    engine.batcher.enqueue(later)
    await all_quiet()
    assert is_right(later)
    assert max(len(batch) for batch in engine.batches) <= 5


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("output", OUTPUTS)
async def test_audit(metrics, output, every):
    """Results in a wrong order are noticed if a batch is audited; then each input runs alone."""

    def answer(batch, outputs):
        return {output: right(batch, [output])[output].select(np.arange(len(batch))[::-1])}

    engine = AnsweringEngine(answer)
    batcher = make_batcher(metrics, engine, audit_every=every)
    seen = []
    for number in range(2 * every):
        request = Request(BACKEND.tokenize([f"a{number}", f"b{number}"]), (output,))
        batcher.enqueue(request)
        await all_quiet()
        seen.append(same(request.columns()[output], right(request.batch, [output])[output]))
    assert seen == ([False] * (every - 1) + [True]) * 2


async def test_audit_of_right_results(metrics):
    """An audit costs one more small batch, and a batch of a single input is not audited."""
    engine = AnsweringEngine()
    batcher = make_batcher(metrics, engine, audit_every=1)
    for request in (make_request(3, 3, 3), make_request(6)):
        batcher.enqueue(request)
        await all_quiet()
        assert is_right(request)
    assert [len(batch) for batch in engine.batches] == [3, 1, 1]


async def test_audit_of_an_engine_that_has_changed(metrics):
    """An engine that no longer passes its self-test is replaced, and its results are computed again."""
    engine, request = AnsweringEngine(), make_request(3)
    batcher = make_batcher(metrics, engine, audit_every=1)
    engine.problem = "probe texts do not give what they gave before"
    batcher.enqueue(request)
    await all_quiet()
    assert engine.replaced == ["probe texts do not give what they gave before"]
    assert len(engine.batches) == 2
    assert is_right(request)


async def test_bug(metrics):
    """An unexpected error fails its batch with a fixed sentence, and the batcher goes on."""
    broken, fine = make_request(3, partial=True), make_request(4)
    engine = await run(metrics, failing((broken, 0), error=RuntimeError), broken)
    assert isinstance(broken.done.exception(), InternalError)
    assert "it fails" not in broken.done.exception().message
    engine.batcher.enqueue(fine)
    await all_quiet()
    assert is_right(fine)
    assert engine.batcher.idle
