"""The batcher's dispatch: when a batch leaves, where it goes, and whose vector comes back."""

from __future__ import annotations

import random

import numpy as np
import pytest

from embeddings_gateway.batching.batcher import Batcher
from embeddings_gateway.batching.poison import Poison
from tests.gateway.fakes import HeldWorker, all_quiet, expected, make_info, make_request

pytestmark = pytest.mark.anyio

FULL = 16
"""Tokens of a job that fills a batch alone."""


def make_batcher(metrics, *workers, queue_tokens_max=100_000, audit_every=0):
    """Return a batcher over these workers."""
    return Batcher("m", workers, queue_tokens_max, metrics.model("m"), Poison(), audit_every=audit_every)


async def test_leaves_at_once(metrics):
    """A lone small job goes to an idle worker without waiting for company."""
    worker = HeldWorker()
    batcher, request = make_batcher(metrics, worker), make_request(3)
    assert batcher.idle
    batcher.admit(request)
    await all_quiet()
    assert repr(batcher) == "<Batcher 0 jobs, 0 tokens, 1 running>"
    assert not batcher.idle
    worker.running[0].finish()
    await request.done
    assert np.array_equal(request.vectors, expected(request))


async def test_idle_again(metrics):
    """When the last batch has ended, nothing waits and nothing runs."""
    worker = HeldWorker()
    batcher = make_batcher(metrics, worker)
    batcher.admit(make_request(3))
    await all_quiet()
    worker.running[0].finish()
    await all_quiet()
    assert batcher.idle
    assert repr(batcher) == "<Batcher 0 jobs, 0 tokens, 0 running>"


async def test_two_in_flight(metrics):
    """A worker never holds more than two batches, however full the queue is."""
    worker = HeldWorker()
    batcher, request = make_batcher(metrics, worker), make_request(*[FULL] * 5)
    batcher.admit(request)
    most = 0
    while not request.done.done():
        await all_quiet()
        most = max(most, len(worker.running))
        worker.running[0].finish()
        await all_quiet()
    assert most == 2
    assert np.array_equal(request.vectors, expected(request))


async def test_second_only_when_full(metrics):
    """A worker that computes is given a second batch as soon as that is a full one, and no sooner."""
    batcher = make_batcher(metrics, HeldWorker())
    for _ in range(3):
        batcher.admit(make_request(3))
        await all_quiet()
    assert repr(batcher) == "<Batcher 2 jobs, 6 tokens, 1 running>"
    batcher.admit(make_request(3))
    await all_quiet()
    assert repr(batcher) == "<Batcher 0 jobs, 0 tokens, 2 running>"


async def test_requests_of_one_turn_share_a_batch(metrics):
    """Requests that arrive in the same turn of the event loop leave together, to an idle worker as well."""
    worker = HeldWorker()
    batcher, requests = make_batcher(metrics, worker), [make_request(3) for _ in range(3)]
    for request in requests:
        batcher.admit(request)
    await all_quiet()
    assert [len(one.batch) for one in worker.running] == [3]
    worker.running[0].finish()
    for request in requests:
        await request.done
        assert np.array_equal(request.vectors, expected(request))


async def test_waiting_jobs_share_a_batch(metrics):
    """What gathered while the worker computed leaves together when it has ended."""
    worker = HeldWorker()
    batcher = make_batcher(metrics, worker)
    requests = [make_request(2) for _ in range(3)]
    for request in requests:
        batcher.admit(request)
        await all_quiet()
    worker.running[0].finish()
    await all_quiet()
    assert [len(one.batch) for one in worker.running] == [2]
    worker.running[0].finish()
    for request in requests:
        await request.done
        assert np.array_equal(request.vectors, expected(request))


async def test_least_busy(metrics):
    """A batch goes to the replica that has the fewest."""
    one, other = HeldWorker(), HeldWorker()
    batcher = make_batcher(metrics, one, other)
    for counts in ([1, 0], [1, 1], [2, 1], [2, 2]):
        batcher.admit(make_request(FULL))
        await all_quiet()
        assert sorted([len(one.running), len(other.running)], reverse=True) == counts
    other.running[0].finish()
    await all_quiet()
    batcher.admit(make_request(FULL))
    batcher.admit(make_request(FULL))
    await all_quiet()
    assert [len(one.running), len(other.running)] == [2, 2]
    assert repr(batcher) == f"<Batcher 1 jobs, {FULL} tokens, 4 running>"


async def test_waits_for_a_worker(metrics):
    """Jobs wait while no worker has a model, and leave when one has."""
    worker = HeldWorker()
    worker.ready = False
    batcher, request = make_batcher(metrics, worker), make_request(3)
    batcher.admit(request)
    assert repr(batcher) == "<Batcher 1 jobs, 3 tokens, 0 running>"
    worker.ready = True
    batcher.step()
    await all_quiet()
    worker.running[0].finish()
    await request.done


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("cost", ["padded", "packed"])
async def test_every_vector_to_its_input(metrics, cost, seed):
    """Whatever the lengths and the order in which batches end, row i is the vector of input i."""
    source = random.Random(seed)
    workers = [HeldWorker(make_info(cost=cost)) for _ in range(3)]
    batcher = make_batcher(metrics, *workers)
    requests = [
        make_request(*(source.randint(1, 20) for _ in range(source.randint(1, 30)))) for _ in range(8)
    ]
    arriving = list(requests)
    while arriving or not batcher.idle:
        if arriving and source.random() < 0.5:
            batcher.admit(arriving.pop())
        await all_quiet()
        if running := [one for worker in workers for one in worker.running]:
            source.choice(running).finish()
            await all_quiet()
    for request in requests:
        assert request.done.result() is None
        assert np.array_equal(request.vectors, expected(request))


async def test_gauges(metrics):
    """The metrics say how much waits."""
    batcher = make_batcher(metrics, HeldWorker())
    batcher.admit(make_request(*[FULL] * 5))
    await all_quiet()
    exposed = metrics.expose().decode()
    assert 'embeddings_gateway_queue_jobs{model="m"} 3.0' in exposed
    assert f'embeddings_gateway_queue_tokens{{model="m"}} {3.0 * FULL}' in exposed
