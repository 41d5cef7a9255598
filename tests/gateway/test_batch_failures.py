"""A bad input, a wrong answer or a lost worker harms nobody but whom it has to."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.errors import InputFailed, InternalError, ModelUnavailable
from gateway.workers.worker import CallFailed, WorkerLost
from tests.gateway.fakes import (
    AnsweringWorker,
    HeldWorker,
    all_quiet,
    expected,
    make_info,
    make_request,
    right_vectors,
)
from tests.gateway.test_batcher import FULL, make_batcher

pytestmark = pytest.mark.anyio


def guilty_of(*requests_and_indices):
    """Return a function that tells the rows of a batch that belong to these inputs."""
    numbers = {int(request.jobs[index].ids[0]) for request, index in requests_and_indices}
    return lambda batch: [row for row, ids in enumerate(batch) if int(ids[0]) in numbers]


async def run(metrics, answer, *requests, **facts):
    """Run the requests in company on a worker that answers so; return the worker."""
    worker = AnsweringWorker(answer, make_info(batch_tokens=512, batch_inputs=64, **facts))
    batcher, ready = make_batcher(metrics, worker), worker.info
    worker.info = None
    for request in requests:
        batcher.admit(request)
    worker.info = ready
    batcher.step()
    await all_quiet()
    assert batcher.idle
    return worker


async def test_only_the_guilty_input_fails(metrics):
    """A batch that the engine fails on is halved until only the input that it fails on fails."""
    good, bad, partial = make_request(3, 4), make_request(3, 4, 5), make_request(4, 4, 4, partial=True)
    guilty = guilty_of((bad, 2), (partial, 1))

    def answer(batch):
        if guilty(batch):
            raise CallFailed("RuntimeError")
        return right_vectors(batch)

    worker = await run(metrics, answer, good, bad, partial)
    assert len(worker.batches[0]) == 8
    assert np.array_equal(good.vectors, expected(good))
    error = bad.done.exception()
    assert isinstance(error, InputFailed)
    assert error.param == "input[2]"
    assert {i: error.param for i, error in partial.errors.items()} == {1: "input[1]"}
    assert np.array_equal(partial.vectors[[0, 2]], expected(partial)[[0, 2]])


WRONG_ROWS = {
    "nan": lambda row: row * np.nan,
    "one nan": lambda row: np.where(np.arange(len(row)) == 3, np.nan, row),
    "inf": lambda row: np.where(np.arange(len(row)) == 0, np.inf, row),
    "-inf": lambda row: np.where(np.arange(len(row)) == 7, -np.inf, row),
    "zero": lambda row: row * 0,
    "not unit": lambda row: row * 1.5,
}


@pytest.mark.parametrize("kind", WRONG_ROWS)
async def test_unusable_row(metrics, kind):
    """A row that is no usable vector fails its own input by name, and no other."""
    good, bad, partial = make_request(3, 4), make_request(3, 4), make_request(4, 4, partial=True)
    guilty = guilty_of((bad, 1), (partial, 0))

    def answer(batch):
        vectors = right_vectors(batch)
        for row in guilty(batch):
            vectors[row] = WRONG_ROWS[kind](vectors[row])
        return vectors

    worker = await run(metrics, answer, good, bad, partial)
    assert len(worker.batches) == 1
    assert np.array_equal(good.vectors, expected(good))
    assert isinstance(bad.done.exception(), InputFailed)
    assert bad.done.exception().param == "input[1]"
    assert [(i, type(e), e.param) for i, e in partial.errors.items()] == [(0, InputFailed, "input[0]")]
    assert np.array_equal(partial.vectors[1], expected(partial)[1])


WRONG_SHAPES = {
    "a row too few": lambda vectors: vectors[:-1],
    "a row too many": lambda vectors: np.vstack([vectors, vectors[:1]]),
    "no rows": lambda vectors: vectors[:0],
    "too narrow": lambda vectors: vectors[:, :-1],
    "too wide": lambda vectors: np.hstack([vectors, vectors]),
    "flat": lambda vectors: vectors.ravel(),
}


@pytest.mark.parametrize("kind", WRONG_SHAPES)
async def test_wrong_shape(metrics, kind):
    """No row of an answer of the wrong count or width is believed, and only the input behind it fails."""
    good, bad = make_request(3, 4), make_request(3, 4, 5, 4, 3, partial=True)
    guilty = guilty_of((bad, 3))

    def answer(batch):
        vectors = right_vectors(batch)
        return WRONG_SHAPES[kind](vectors) if guilty(batch) else vectors

    await run(metrics, answer, good, bad)
    assert np.array_equal(good.vectors, expected(good))
    assert [(i, type(e), e.param) for i, e in bad.errors.items()] == [(3, InputFailed, "input[3]")]
    assert np.isnan(bad.vectors[3]).all()
    assert np.array_equal(np.delete(bad.vectors, 3, 0), np.delete(expected(bad), 3, 0))


async def test_not_normalized(metrics):
    """A model that says its vectors have no unit length may have any length but none."""
    request = make_request(3)
    await run(metrics, lambda batch: 9 * right_vectors(batch), request, normalized=False)
    assert np.array_equal(request.vectors, 9 * expected(request))


async def test_lost_worker(metrics):
    """When a worker goes away, what it held is told so, and another replica serves the rest."""
    dying, living = HeldWorker(), HeldWorker()
    batcher = make_batcher(metrics, dying, living)
    requests = [make_request(FULL) for _ in range(6)]
    for request in requests:
        batcher.admit(request)
    await all_quiet()
    dying.info = None
    for one in list(dying.running):
        one.fail(WorkerLost())
    await all_quiet()
    while not batcher.idle:
        living.running[0].finish()
        await all_quiet()
    lost = [request.done.exception() for request in requests if request.done.exception()]
    assert [(type(error), error.param) for error in lost] == [(ModelUnavailable, "model")] * 2
    assert all(error.retry_after for error in lost)
    served = [request for request in requests if not request.done.exception()]
    assert all(np.array_equal(request.vectors, expected(request)) for request in served)


async def test_lost_before_it_was_asked(metrics):
    """A worker that goes away just before it gets its batch costs that batch alone."""
    worker = HeldWorker()
    batcher, first = make_batcher(metrics, worker), make_request(3)
    batcher.admit(first)
    batcher.step()
    worker.info = None
    await all_quiet()
    assert isinstance(first.done.exception(), ModelUnavailable)
    second = make_request(3)
    batcher.admit(second)
    worker.info = make_info()
    batcher.step()
    await all_quiet()
    worker.running[0].finish()
    await second.done


async def test_lost_while_halving(metrics):
    """A worker that goes away while the batch is halved leaves what was already computed as it is."""
    request, held = make_request(4, 4, partial=True), AnsweringWorker(right_vectors)

    def answer(batch):
        if len(batch) == 2:
            raise CallFailed("RuntimeError")
        if len(held.batches) == 3:
            raise WorkerLost
        return right_vectors(batch)

    held._answer = answer
    batcher = make_batcher(metrics, held)
    held.info, ready = None, held.info
    batcher.admit(request)
    held.info = ready
    batcher.step()
    await all_quiet()
    assert [type(error) for error in request.errors.values()] == [ModelUnavailable]
    assert np.array_equal(request.vectors[0], expected(request)[0])


async def test_bug(metrics):
    """An error that nobody foresaw ends its batch with a fixed sentence, and the batcher lives on."""
    worker = HeldWorker()
    batcher = make_batcher(metrics, worker)
    broken, fine = make_request(3), make_request(4)
    batcher.admit(broken)
    await all_quiet()
    worker.running[0].fail(RuntimeError("a secret"))
    await all_quiet()
    assert isinstance(broken.done.exception(), InternalError)
    assert "secret" not in broken.done.exception().message
    batcher.admit(fine)
    await all_quiet()
    worker.running[0].finish()
    await fine.done
    await all_quiet()
    assert batcher.idle
