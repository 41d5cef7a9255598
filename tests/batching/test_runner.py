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
    CrashedOutOfMemory,
    OutOfMemory,
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


async def run(metrics, answer, *requests, supervised=True, **facts):
    """Run the requests in one batch on an engine that answers so; return the engine."""
    engine = AnsweringEngine(answer, make_info(**{"max_batch_tokens": 512, "max_batch_inputs": 64, **facts}))
    engine.supervised = engine if supervised else None
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


async def test_windows_name_their_input(metrics):
    """A row that is a window fails under the number of its input."""
    batch = make_request(3, 4, 5).batch
    request = Request(batch, partial=True, row_inputs=np.array([0, 1, 1]))
    await run(metrics, failing((request, 2)), request)
    assert {row: error.param for row, error in request.errors.items()} == {2: "input[1]"}


async def test_unusable_rows(metrics):
    """A row that is no usable result fails its own input by name, after it was run alone, and no other."""
    good, bad, partial = make_request(3, 4), make_request(3, 4), make_request(4, 4, partial=True)
    guilty = guilty_of((bad, 1), (partial, 0))

    def answer(batch, outputs):
        columns = right(batch, outputs)
        columns["dense"].values[guilty(batch)] *= np.nan
        return columns

    engine = await run(metrics, answer, good, bad, partial)
    assert [len(batch) for batch in engine.batches] == [6, 1, 1, 1, 1]
    assert is_right(good)
    assert bad.done.exception().param == "input[1]"
    assert kept(partial, 0)


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
    """No row of a column of the wrong count or width is believed, and only the input behind it fails."""
    good = Request(BACKEND.tokenize(["ab", "c"]), (output,))
    bad = Request(BACKEND.tokenize(["x", "yy", "zzz"]), (output,), partial=True)
    guilty = guilty_of((bad, 1))

    def answer(batch, outputs):
        columns = right(batch, outputs)
        return {output: misshape(columns[output])} if guilty(batch) else columns

    await run(metrics, answer, good, bad)
    assert same(good.columns()[output], right(good.batch, [output])[output])
    assert {row: error.param for row, error in bad.errors.items()} == {1: "input[1]"}


async def test_not_normalized(metrics):
    """A model that says its vectors have no unit length may have any length but none."""
    request = make_request(3)
    await run(
        metrics, lambda batch, _: {"dense": Column(9 * right_vectors(batch))}, request, normalized=False
    )
    assert np.array_equal(vectors(request), 9 * right_vectors(request.batch))


@pytest.mark.parametrize("is_last", [False, True])
async def test_lost_worker(metrics, is_last):
    """What a worker held that goes away by no fault of it is computed by another, or told that none comes."""
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


async def test_lost_while_searching(metrics):
    """A worker that goes away for good while it is searched leaves what was already computed as it is."""
    request, engine = make_request(4, 4, partial=True), AnsweringEngine()
    batcher = make_batcher(metrics, engine)

    def answer(batch, outputs):
        if len(batch) == 2:
            raise CallFailed("RuntimeError")
        if len(engine.batches) == 4:
            engine.to("broken")
            raise WorkerGone
        return right(batch, outputs)

    engine.answer = answer
    batcher.enqueue(request)
    await all_quiet()
    assert isinstance(request.done.exception(), ModelUnavailable)
    assert request.rows.tolist() == []


def killing(*killers, harmless_after=None, how=WorkerCrashed):
    """Return an answer that ends the worker on a batch with one of these inputs, and the list of crashes."""
    guilty, crashes = guilty_of(*killers), []

    def answer(batch, outputs):
        if guilty(batch) and (harmless_after is None or len(crashes) < harmless_after):
            crashes.append(len(batch))
            raise how("signal SIGABRT")
        return right(batch, outputs)

    return answer, crashes


@pytest.mark.parametrize("place", [0, 17, 63])
async def test_killer(metrics, place):
    """One input of 64 that crashes the worker is found in few crashes, and all others get their results."""
    good, bad = make_request(*[3] * 32), make_request(*[3] * 32, partial=True)
    request, row = (good, place) if place < 32 else (bad, place - 32)
    answer, crashes = killing((request, row))
    engine = await run(metrics, answer, good, bad)
    assert crashes == [64, 64, 8, 1, 1]
    assert engine.exonerated == len(crashes)
    if request is bad:
        assert is_right(good)
        assert kept(bad, 31)
    else:
        assert good.done.exception().param == f"input[{place}]"
        assert is_right(bad)


async def test_a_handful_of_killers(metrics):
    """Five among 64, each in another part, are all found, and all crashes are explained by them, once."""
    first, second = make_request(*[3] * 32, partial=True), make_request(*[3] * 32, partial=True)
    answer, crashes = killing((first, 1), (first, 9), (first, 17), (second, 1), (second, 31))
    engine = await run(metrics, answer, first, second)
    assert kept(first, 1, 9, 17)
    assert kept(second, 1, 31)
    assert engine.exonerated == len(crashes)


async def test_too_many_killers(metrics):
    """A search costs so many workers; what it leaves may be tried again, and no crash of it is explained."""
    requests = [make_request(3, partial=True) for _ in range(64)]
    answer, crashes = killing(*((request, 0) for request in requests))
    engine = await run(metrics, answer, *requests)
    assert len(crashes) <= SEARCH_CRASHES_MAX + 3
    found = [request for request in requests if isinstance(request.errors[0], InputFailed)]
    rest = [request.done.exception() for request in requests if request not in found]
    assert found
    assert rest
    assert all(isinstance(error, ModelUnavailable) and error.retry_after for error in rest)
    assert engine.exonerated == 0
    again = Request(found[0].batch, partial=True)
    engine.batcher.enqueue(again)
    await all_quiet()
    assert isinstance(again.errors[0], InputFailed)


async def test_crash_of_an_engine_without_supervision(metrics):
    """A crash of an engine that is no process of ours blames nobody: its rows are run again elsewhere."""
    request = make_request(*[3] * 8)
    answer, crashes = killing((request, 0), harmless_after=1)
    await run(metrics, answer, request, supervised=False)
    assert crashes == [8]
    assert is_right(request)


async def test_killed_by_somebody_else(metrics):
    """A worker that is ended once, by whatever, costs nobody anything."""
    request = make_request(*[3] * 8)
    answer, _ = killing((request, 0), harmless_after=1)
    engine = await run(metrics, answer, request)
    assert [len(batch) for batch in engine.batches] == [8, 8]
    assert engine.exonerated == 0
    assert is_right(request)


async def test_killer_that_nobody_waits_for(metrics):
    """An input whose request is over is found all the same: it would come again."""
    request, other = make_request(3), make_request(3)
    kill, crashes = killing((request, 0))

    def answer(batch, outputs):
        request.done.cancel()
        return kill(batch, outputs)

    engine = await run(metrics, answer, request, other)
    assert crashes == [2, 2, 1, 1]
    assert engine.exonerated == len(crashes)
    assert is_right(other)


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
    """A batch that memory runs out on is halved before anybody is blamed, and later ones are smaller."""
    request, later = make_request(*[4] * 16), make_request(*[4] * 16)

    def answer(batch, outputs):
        if batch.tokens > 20:
            raise OutOfMemory("MemoryError")
        return right(batch, outputs)

    engine = await run(metrics, answer, request, max_batch_tokens=64)
    assert is_right(request)
    assert [len(batch) for batch in engine.batches][:3] == [16, 8, 4]
    engine.batches.clear()
    engine.batcher.enqueue(later)
    await all_quiet()
    assert is_right(later)
    assert max(len(batch) for batch in engine.batches) <= 5


async def test_crashed_out_of_memory(metrics):
    """So is one that the system ended the worker for; no input is remembered for it."""
    request = make_request(*[4] * 16)

    def answer(batch, outputs):
        if len(batch) > 4:
            raise CrashedOutOfMemory("out of memory")
        return right(batch, outputs)

    engine = await run(metrics, answer, request)
    assert [len(batch) for batch in engine.batches] == [16] + [2] * 8
    assert is_right(request)


async def test_worker_that_is_not_well(metrics):
    """Before an input is blamed the worker is tested; one that is not well is replaced, and nobody blamed."""
    request, engine = make_request(*[3] * 4), AnsweringEngine()
    engine.problem = "the model gives probe texts vectors that are not finite, or zero"
    engine.answer = lambda batch, _: {
        "dense": Column(right_vectors(batch) * np.float32(np.nan if engine.problem else 1))
    }
    make_batcher(metrics, engine).enqueue(request)
    await all_quiet()
    assert len(engine.replaced) == 1
    assert is_right(request)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("output", OUTPUTS)
async def test_audit(metrics, output, every):
    """Results in a wrong order are found where a batch is audited, and then each input is run alone."""

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


async def test_alarm_during_a_search(metrics):
    """Once an audit has raised the alarm, only what each input gets by itself is believed."""
    request, failures = make_request(*[3] * 5), []

    def answer(batch, _):
        if not failures:
            failures.append(len(batch))
            raise CallFailed("RuntimeError")
        return {"dense": Column(np.roll(right_vectors(batch), 1, axis=0))}

    make_batcher(metrics, AnsweringEngine(answer), audit_every=1).enqueue(request)
    await all_quiet()
    assert is_right(request)


async def test_audit_of_right_results(metrics):
    """A right batch costs one more small one where it is audited, and one input alone none."""
    engine = AnsweringEngine()
    batcher = make_batcher(metrics, engine, audit_every=1)
    for request in (make_request(3, 3, 3), make_request(6)):
        batcher.enqueue(request)
        await all_quiet()
        assert is_right(request)
    assert [len(batch) for batch in engine.batches] == [3, 1, 1]


async def test_bug(metrics):
    """An error that nobody foresaw ends its batch with a fixed sentence, and the batcher lives on."""
    broken, fine = make_request(3, partial=True), make_request(4)
    engine = await run(metrics, failing((broken, 0), error=RuntimeError), broken)
    assert isinstance(broken.done.exception(), InternalError)
    assert "it fails" not in broken.done.exception().message
    engine.batcher.enqueue(fine)
    await all_quiet()
    assert is_right(fine)
    assert engine.batcher.idle


async def test_a_batch_of_several_requests(metrics):
    """One batch of rows of many requests, some of them split over several, gives each row its result."""
    engine = AnsweringEngine(info=make_info(max_batch_tokens=64, max_batch_inputs=16, cost="packed"))
    batcher = make_batcher(metrics, engine)
    texts = [[f"{number}-{row}" * (1 + row % 3) for row in range(1 + 5 * number)] for number in range(9)]
    requests = [Request(BACKEND.tokenize(some), OUTPUTS) for some in texts]
    for request in requests:
        batcher.enqueue(request)
    await all_quiet()
    for request in requests:
        expected = right(request.batch, OUTPUTS)
        assert all(same(column, expected[output]) for output, column in request.columns().items())
