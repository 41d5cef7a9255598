"""What the batcher lets in, and how what waits leaves without being run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embeddings_gateway.errors import DeadlinePassed, ModelUnavailable, Overloaded
from tests.gateway.fakes import HeldWorker, all_quiet, expected, make_request
from tests.gateway.test_batcher import FULL, make_batcher

pytestmark = pytest.mark.anyio


async def busy(metrics, **bounds):
    """Return a worker that holds two batches, and its batcher: what is admitted now waits."""
    worker = HeldWorker()
    batcher = make_batcher(metrics, worker, **bounds)
    batcher.admit(make_request(FULL, FULL))
    await all_quiet()
    return worker, batcher


async def finish_all(worker, batcher):
    """End every batch, in order, until nothing is left."""
    while not batcher.idle:
        worker.running[0].finish()
        await all_quiet()


async def test_all_or_nothing(metrics):
    """A request that does not fit as a whole is refused as a whole; one that just fits is taken."""
    worker, batcher = await busy(metrics, queue_tokens_max=100)
    batcher.admit(make_request(30, 30))
    refused = make_request(10, 31)
    with pytest.raises(Overloaded):
        batcher.admit(refused)
    assert repr(batcher) == "<Batcher 2 jobs, 60 tokens, 2 running>"
    batcher.admit(make_request(10, 30))
    assert repr(batcher) == "<Batcher 4 jobs, 100 tokens, 2 running>"
    await finish_all(worker, batcher)
    assert not refused.done.done()


@pytest.mark.parametrize(
    ("seconds", "excess", "retry_after"),
    [(0.16, 1, 1), (0.16, 100, 1), (0.16, 101, 2), (0.16, 1000, 10), (0.16, 900_000, 60), (0.0, 1000, 1)],
)
async def test_retry_after(metrics, seconds, excess, retry_after):
    """Retry-After is how long the model needs for what is too much, from 1 to 60 seconds."""
    worker, batcher = await busy(metrics, queue_tokens_max=2 * FULL)
    for one in list(worker.running):
        one.finish(seconds)  # 16 tokens each: at 0.16 s a batch, 100 tokens a second
    await all_quiet()
    with pytest.raises(Overloaded) as refusal:
        batcher.admit(make_request(2 * FULL + excess))
    assert refusal.value.retry_after == retry_after


async def test_retry_after_before_the_first_batch(metrics):
    """While the model's speed is not known, Retry-After is one second."""
    _, batcher = await busy(metrics, queue_tokens_max=2 * FULL)
    with pytest.raises(Overloaded) as refusal:
        batcher.admit(make_request(10**6))
    assert refusal.value.retry_after == 1


async def test_discard(metrics):
    """The jobs of a request that nobody waits for any more leave the queue; its neighbours stay."""
    worker, batcher = await busy(metrics)
    left, stays = make_request(FULL, 2, 3), make_request(4)
    batcher.admit(left)
    batcher.admit(stays)
    left.done.cancel()
    batcher.discard(left)
    assert repr(batcher) == "<Batcher 1 jobs, 4 tokens, 2 running>"
    await finish_all(worker, batcher)
    assert np.array_equal(stays.vectors, expected(stays))
    assert np.isnan(left.vectors).all()


async def test_discard_while_it_runs(metrics):
    """A request that is given up while its batch runs does not disturb the others in the batch."""
    worker = HeldWorker()
    batcher = make_batcher(metrics, worker)
    batcher.admit(make_request(FULL))
    await all_quiet()
    left, stays = make_request(3), make_request(3)
    batcher.admit(left)
    batcher.admit(stays)
    worker.running[0].finish()
    await all_quiet()
    assert len(worker.running[0].batch) == 2
    left.done.cancel()
    batcher.discard(left)
    await finish_all(worker, batcher)
    assert np.array_equal(stays.vectors, expected(stays))


async def test_gone_without_discard(metrics):
    """Jobs whose request is over are dropped when a batch is formed, not run."""
    worker, batcher = await busy(metrics)
    gone, stays = make_request(3), make_request(3)
    batcher.admit(gone)
    batcher.admit(stays)
    gone.done.cancel()
    for one in list(worker.running):
        one.finish()
    await all_quiet()
    assert [list(ids) for ids in worker.running[0].batch] == [list(stays.jobs[0].ids)]
    await finish_all(worker, batcher)


async def test_deadline(metrics):
    """A job that is too late when a batch is formed gets that error and is not run."""
    worker, batcher = await busy(metrics)
    late, fine = make_request(3, 3), make_request(3)
    batcher.admit(late)
    batcher.admit(fine)
    late.deadline = -math.inf
    await finish_all(worker, batcher)
    assert isinstance(late.done.exception(), DeadlinePassed)
    assert np.array_equal(fine.vectors, expected(fine))
    assert np.isnan(late.vectors).all()


async def test_deadline_of_partial_results(metrics):
    """Lateness is no fault of an input: a request that is late fails, with partial results too."""
    worker = HeldWorker()
    batcher = make_batcher(metrics, worker)
    request = make_request(FULL, FULL, FULL, partial=True)
    batcher.admit(request)
    await all_quiet()
    request.deadline = -math.inf
    await finish_all(worker, batcher)
    assert isinstance(request.done.exception(), DeadlinePassed)


async def test_refuse(metrics):
    """When no replica is left, what waits gets the error and what runs is not touched."""
    worker, batcher = await busy(metrics)
    waits = [make_request(3, 4), make_request(5)]
    for request in waits:
        batcher.admit(request)
    batcher.refuse(lambda: ModelUnavailable("gone", "model", 5))
    assert all(isinstance(request.done.exception(), ModelUnavailable) for request in waits)
    assert waits[0].done.exception() is not waits[1].done.exception()
    assert repr(batcher) == "<Batcher 0 jobs, 0 tokens, 2 running>"
    await finish_all(worker, batcher)


async def test_what_is_prepared_beside(metrics):
    """Tokens in preparation take room in the queue, but are not a request's own when its time is judged."""
    worker, batcher = await busy(metrics, queue_tokens_max=1000)
    for one in list(worker.running):
        one.finish(0.16)  # 16 tokens each: 100 tokens a second
    await all_quiet()
    admission = batcher.admission
    with admission.expected(900, math.inf):
        with admission.expected(10, seconds_max=5):
            pass
        with pytest.raises(DeadlinePassed), admission.expected(10, seconds_max=0.05):
            pass
        with pytest.raises(Overloaded), admission.expected(101, math.inf):
            pass


async def test_a_speed_of_long_ago(metrics, monkeypatch):
    """How fast batches were a minute ago refuses nothing that would be computed at once."""
    worker, batcher = await busy(metrics, queue_tokens_max=1000)
    for one in list(worker.running):
        one.finish(0.16)  # 16 tokens each: 100 tokens a second
    await all_quiet()
    admission = batcher.admission
    with pytest.raises(DeadlinePassed):
        admission.check(100, seconds_max=0.5)
    monkeypatch.setattr("embeddings_gateway.batching.admission.KNOWN_S", -1.0)
    admission.check(100, seconds_max=0.5)
    batcher.admit(make_request(FULL, FULL, FULL))  # of which the last one waits
    await all_quiet()
    with pytest.raises(DeadlinePassed):
        admission.check(100, seconds_max=0.5)
