"""The queue: fairness between requests, and exact accounts of what waits."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.batching.job import Request
from gateway.batching.queue import Queue
from gateway.errors import InvalidRequest
from tests.gateway.fakes import WIDTH, make_request

pytestmark = pytest.mark.anyio


def serve(queue):
    """Take the job at the head out, as served, and return it."""
    head = next(iter(queue))
    queue.take([head])
    return head


async def test_small_after_large():
    """A small request that arrives behind 2000 jobs waits for about as much work as it brings itself."""
    queue = Queue()
    queue.add(make_request(*[100] * 2000))
    for _ in range(50):
        serve(queue)
    small = make_request(100, 100, 100)
    queue.add(small)
    owners = [serve(queue).owner for _ in range(8)]
    assert owners.count(small) == 3


async def test_large_beside_a_stream():
    """A large request gets its half of the work while small ones never stop coming."""
    queue, large = Queue(), make_request(*[10] * 100)
    queue.add(large)
    queue.add(make_request(10))
    served = Counter()
    while served[True] < 100:
        job = serve(queue)
        served[job.owner is large] += 1
        if job.owner is not large:
            queue.add(make_request(10))
    assert served[False] <= 102


@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=20), min_size=2, max_size=6))
def test_equal_shares(lengths):
    """Requests that wait at the same time are served alike, to within one job."""

    async def run():
        queue, requests = Queue(), [make_request(*some) for some in lengths]
        for request in requests:
            queue.add(request)
        served, left = Counter(), {request: len(request.jobs) for request in requests}
        while len(queue):
            job = serve(queue)
            served[job.owner] += job.tokens
            left[job.owner] -= 1
            waiting = [served[request] for request in requests if left[request]]
            assert not waiting or max(waiting) - min(waiting) <= 50

    asyncio.run(run())


async def test_order_within_a_request():
    """The jobs of one request leave in the order of its inputs."""
    queue = Queue()
    requests = [make_request(5, 1, 9, 2), make_request(7, 7, 1)]
    for request in requests:
        queue.add(request)
    left = [serve(queue) for _ in range(len(queue))]
    for request in requests:
        assert [job.index for job in left if job.owner is request] == list(range(len(request.jobs)))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(1, 9), min_size=1, max_size=6)),
        st.tuples(st.sampled_from(["take", "drop"]), st.lists(st.integers(0, 20), max_size=6)),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=30,
)


@given(steps)
@settings(max_examples=60)
def test_accounts(steps):
    """Whatever is added and taken, the queue knows how many jobs and tokens wait, and in which order."""

    async def run():
        queue, held = Queue(), set()
        for verb, what in steps:
            waiting = list(queue)
            some = [waiting[place] for place in dict.fromkeys(what or []) if place < len(waiting)]
            if verb == "add":
                request = make_request(*what)
                queue.add(request)
                held |= set(request.jobs)
            elif verb == "clear":
                assert set(queue.clear()) == held
                held = set()
            else:
                (queue.take if verb == "take" else queue.drop)(some)
                held -= set(some)
            assert set(queue) == held
            assert len(queue) == len(held)
            assert queue.tokens == sum(job.tokens for job in held)
            assert [job.turn for job in queue] == sorted(job.turn for job in held)

    asyncio.run(run())


async def test_nothing_to_run():
    """A request whose inputs all failed before they could wait leaves nothing behind."""
    queue = Queue()
    request = Request([InvalidRequest("too long")], WIDTH, 1.0, partial=True)
    queue.add(request)
    assert (len(queue), queue.tokens) == (0, 0)
    reference = weakref.ref(request)
    del request
    gc.collect()
    assert reference() is None
