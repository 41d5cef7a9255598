"""A bad input, a wrong answer or a lost worker harms nobody but whom it has to."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from embeddings_gateway.batching.poison import Poison
from embeddings_gateway.errors import InputFailed, InternalError, ModelUnavailable
from embeddings_gateway.serving.tokenizer import Tokenizer
from embeddings_gateway.workers.isolation import SEARCH_DEATHS_MAX
from embeddings_gateway.workers.worker import CallFailed, DiedOutOfMemory, OutOfMemory, WorkerDied, WorkerLost
from tests.gateway.fakes import (
    AnsweringWorker,
    HeldWorker,
    all_quiet,
    expected,
    make_ids,
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
    batcher = worker.batcher = make_batcher(metrics, worker)
    worker.ready = False
    for request in requests:
        batcher.admit(request)
    worker.ready = True
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
    assert [len(batch) for batch in worker.batches] == [6, 1, 1, 1, 1]
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
    """When a worker goes away by no fault of a batch, another replica computes it."""
    dying, living = HeldWorker(), HeldWorker()
    batcher = make_batcher(metrics, dying, living)
    requests = [make_request(FULL) for _ in range(6)]
    for request in requests:
        batcher.admit(request)
    await all_quiet()
    dying.ready = False
    for one in list(dying.running):
        one.fail(WorkerLost())
    await all_quiet()
    while not batcher.idle:
        living.running[0].finish()
        await all_quiet()
    assert all(np.array_equal(request.vectors, expected(request)) for request in requests)


async def test_lost_for_good(metrics):
    """When a worker goes away and none is to be expected, what it held is told so."""
    worker = HeldWorker()
    batcher, running, held = make_batcher(metrics, worker), make_request(FULL), make_request(FULL)
    batcher.admit(running)
    batcher.admit(held)
    await all_quiet()
    worker.ready = False
    batcher.refuse(lambda: ModelUnavailable("gone", "model", 5))
    for one in list(worker.running):
        one.fail(WorkerLost())
    await all_quiet()
    assert [type(request.done.exception()) for request in (running, held)] == [ModelUnavailable] * 2
    assert batcher.idle


def killing(*killers, harmless_after=None, how=WorkerDied):
    """Return an answer that ends the worker on a batch with one of these inputs, and the list of deaths."""
    guilty, deaths = guilty_of(*killers), []

    def answer(batch):
        if guilty(batch) and (harmless_after is None or len(deaths) < harmless_after):
            deaths.append(len(batch))
            raise how("signal SIGABRT")
        return right_vectors(batch)

    return answer, deaths


@pytest.mark.parametrize("place", [0, 17, 63])
async def test_killer(metrics, place):
    """One input of 64 that ends the worker is found in few deaths, and everybody else gets the vector."""
    good, bad = make_request(*[3] * 32), make_request(*[3] * 32, partial=True)
    request, index = (good, place) if place < 32 else (bad, place - 32)
    answer, deaths = killing((request, index))
    await run(metrics, answer, good, bad)
    assert deaths == [64, 64, 8, 1, 1]
    if request is bad:
        assert np.array_equal(good.vectors, expected(good))
        assert [(i, type(e), e.param) for i, e in bad.errors.items()] == [(31, InputFailed, "input[31]")]
        assert np.array_equal(bad.vectors[:31], expected(bad)[:31])
    else:
        assert good.done.exception().param == f"input[{place}]"
        assert np.array_equal(bad.vectors, expected(bad))


async def test_two_killers(metrics):
    """Several inputs that end the worker are all found, in several requests or in one."""
    one, other = make_request(*[3] * 32, partial=True), make_request(*[3] * 32, partial=True)
    answer, _ = killing((one, 3), (other, 3), (other, 30))
    await run(metrics, answer, one, other)
    assert (list(one.errors), list(other.errors)) == ([3], [3, 30])


async def test_a_handful_of_killers(metrics):
    """Five among 64, each in another part, are all found, and all deaths are explained by them, once."""
    request = make_request(*[3] * 64, partial=True)
    places = [1, 9, 17, 33, 63]
    answer, deaths = killing(*((request, place) for place in places))
    worker = await run(metrics, answer, request)
    assert {i: type(error) for i, error in request.errors.items()} == dict.fromkeys(places, InputFailed)
    assert worker.explained_deaths == len(deaths)


async def test_too_many_killers(metrics):
    """A search costs so many workers; what it leaves may be tried again, and no death of it is explained."""
    requests = [make_request(3) for _ in range(64)]
    answer, deaths = killing(*((request, 0) for request in requests))
    worker = await run(metrics, answer, *requests)
    assert len(deaths) <= SEARCH_DEATHS_MAX + 3
    errors = [request.errors[0] for request in requests]
    found = [i for i, error in enumerate(errors) if isinstance(error, InputFailed)]
    left = [error for error in errors if isinstance(error, ModelUnavailable)]
    assert found
    assert len(found) + len(left) == 64
    assert all(error.retry_after for error in left)
    assert worker.explained_deaths == 0
    again = make_request(3, partial=True)
    again.jobs[0].ids = requests[found[0]].jobs[0].ids
    worker.batcher.admit(again)
    await all_quiet()
    assert isinstance(again.errors[0], InputFailed)


async def test_too_many_killers_of_a_tokenizer():
    """A search among texts is bounded in the same way, and tells each text what is known of it."""
    texts, deaths = [f"text {n}" for n in range(64)], []

    class Killed(HeldWorker):
        """The one replica there is; of all texts it takes only the first, by itself."""

        worth_waiting = True

        async def least_busy(self):
            return self

        async def tokenize(self, some):
            if some == texts[:1]:
                return [make_ids(3)]
            deaths.append(len(some))
            raise WorkerDied("signal SIGABRT")

    found = await Tokenizer("m", Killed(), Poison())(texts)
    assert len(deaths) <= SEARCH_DEATHS_MAX + 3
    assert len(found[0]) == 3
    assert Counter(map(type, found[1:])).keys() == {InputFailed, ModelUnavailable}


async def test_deaths_before_a_failure(metrics):
    """A search that began with a failure explains the deaths that it saw itself, and none before it."""
    request, failures = make_request(*[3] * 8, partial=True), []
    kill, deaths = killing((request, 3))

    def answer(batch):
        if not failures:
            failures.append(len(batch))
            raise CallFailed("RuntimeError")
        return kill(batch)

    worker = await run(metrics, answer, request)
    assert list(request.errors) == [3]
    assert worker.explained_deaths == len(deaths)


async def test_killed_by_somebody_else(metrics):
    """A worker that is ended once, by whatever, costs nobody anything."""
    request = make_request(*[3] * 8)
    answer, deaths = killing((request, 0), harmless_after=1)
    worker = await run(metrics, answer, request)
    assert deaths == [8]
    assert [len(batch) for batch in worker.batches] == [8, 8]
    assert worker.explained_deaths == 0
    assert np.array_equal(request.vectors, expected(request))


async def test_killer_that_nobody_waits_for(metrics):
    """An input whose request is over is found all the same: it would come again."""
    request, other = make_request(3), make_request(3)
    guilty, deaths = guilty_of((request, 0)), []

    def answer(batch):
        if guilty(batch):
            deaths.append(len(batch))
            request.done.cancel()
            raise WorkerDied
        return right_vectors(batch)

    worker = await run(metrics, answer, request, other)
    assert deaths == [2, 2, 1, 1]
    assert worker.explained_deaths == len(deaths)
    assert np.array_equal(other.vectors, expected(other))


async def test_copies_of_a_killer(metrics):
    """Of an input that ends the worker and comes many times, one is searched for; the others are known."""
    copies = make_request(*[3] * 8, partial=True)
    for job in copies.jobs:
        job.ids = copies.jobs[0].ids
    good = make_request(3, 3)
    answer, deaths = killing((copies, 0))
    worker = await run(metrics, answer, copies, good)
    assert len(copies.errors) == 8
    assert deaths == [10, 10, 2, 1, 1]
    assert np.array_equal(good.vectors, expected(good))
    again = make_request(3, 4)
    again.jobs[0].ids = copies.jobs[0].ids
    batcher = worker.batcher
    batcher.admit(again)
    await all_quiet()
    assert again.done.exception().param == "input[0]"
    assert len(deaths) == 5


async def test_out_of_memory(metrics):
    """A batch that memory runs out on is halved before anybody is blamed, and later ones are smaller."""
    request, later = make_request(*[4] * 16), make_request(*[4] * 16)

    def answer(batch):
        if sum(map(len, batch)) > 20:
            raise OutOfMemory("MemoryError")
        return right_vectors(batch)

    worker = AnsweringWorker(answer, make_info(batch_tokens=64, batch_inputs=64))
    batcher = make_batcher(metrics, worker)
    batcher.admit(request)
    await all_quiet()
    assert np.array_equal(request.vectors, expected(request))
    assert [len(batch) for batch in worker.batches][:3] == [16, 8, 4]
    worker.batches.clear()
    batcher.admit(later)
    await all_quiet()
    assert np.array_equal(later.vectors, expected(later))
    assert max(len(batch) for batch in worker.batches) <= 5


async def test_ended_for_lack_of_memory(metrics):
    """So is one that the system ended the worker for."""
    request = make_request(*[4] * 16)

    def answer(batch):
        if len(batch) > 4:
            raise DiedOutOfMemory("out of memory")
        return right_vectors(batch)

    worker = await run(metrics, answer, request)
    assert [len(batch) for batch in worker.batches] == [16] + [2] * 8
    assert np.array_equal(request.vectors, expected(request))


async def test_worker_that_is_not_well(metrics):
    """Before an input is blamed the worker is tested; one that is not well is replaced, and nobody blamed."""
    request = make_request(*[3] * 4)
    worker = AnsweringWorker(right_vectors)
    worker.wrong = "the model gives probe texts vectors that are not finite, or zero"

    def answer(batch):
        return right_vectors(batch) * (np.nan if worker.wrong else 1)

    worker._answer = answer
    make_batcher(metrics, worker).admit(request)
    await all_quiet()
    assert len(worker.replaced) == 1
    assert np.array_equal(request.vectors, expected(request))


async def test_lost_while_searching(metrics):
    """A worker that goes away for good while it is searched leaves what was already computed as it is."""
    request, held = make_request(4, 4, partial=True), AnsweringWorker(right_vectors)
    batcher = make_batcher(metrics, held)

    def answer(batch):
        if len(batch) == 2:
            raise CallFailed("RuntimeError")
        if len(held.batches) == 4:
            batcher.refuse(lambda: ModelUnavailable("gone", "model", 5))
            raise WorkerLost
        return right_vectors(batch)

    held._answer = answer
    batcher.admit(request)
    await all_quiet()
    assert [type(error) for error in request.errors.values()] == [ModelUnavailable]
    assert np.array_equal(request.vectors[0], expected(request)[0])


@pytest.mark.parametrize("every", [1, 3])
async def test_audit(metrics, every):
    """Rows in a wrong order are found where a batch is looked at again, and then each is computed alone."""
    worker = AnsweringWorker(lambda batch: right_vectors(batch)[::-1].copy())
    batcher = make_batcher(metrics, worker, audit_every=every)
    right = []
    for _ in range(2 * every):
        request = make_request(3, 3)
        batcher.admit(request)
        await all_quiet()
        right.append(np.array_equal(request.vectors, expected(request)))
    assert right == ([False] * (every - 1) + [True]) * 2


async def test_alarm_during_a_search(metrics):
    """Once an audit has raised the alarm, only what each input gets by itself is believed."""
    request, failures = make_request(*[3] * 8), []

    def answer(batch):
        if not failures:
            failures.append(len(batch))
            raise CallFailed("RuntimeError")
        return np.roll(right_vectors(batch), 1, axis=0)

    worker = AnsweringWorker(answer)
    make_batcher(metrics, worker, audit_every=1).admit(request)
    await all_quiet()
    assert np.array_equal(request.vectors, expected(request))


async def test_audit_of_right_answers(metrics):
    """A right answer costs one more small batch where it is looked at, and one input alone none."""
    worker = AnsweringWorker(right_vectors)
    batcher = make_batcher(metrics, worker, audit_every=1)
    for request in (make_request(3, 3, 3), make_request(6)):
        batcher.admit(request)
        await all_quiet()
        assert np.array_equal(request.vectors, expected(request))
    assert [len(batch) for batch in worker.batches] == [3, 1, 1]


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
