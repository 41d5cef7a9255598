"""The queue: fairness between requests, and exact accounts of what waits."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings_gateway.batching.job import Request
from embeddings_gateway.batching.queue import CHUNK_TOKENS, Queue
from embeddings_gateway.errors import InvalidRequest
from tests.gateway.fakes import WIDTH, make_request

pytestmark = pytest.mark.anyio


def serve(queue):
    """Take the job at the head out, as served, and return it."""
    head = next(iter(queue))
    queue.take([head])
    return head


async def test_small_after_large():
    """A small request that arrives behind 2000 jobs waits for a piece of them at most."""
    for served_before in range(0, 100, 7):
        queue = Queue()
        queue.add(make_request(*[100] * 2000))
        for _ in range(served_before):
            serve(queue)
        small = make_request(100, 100, 100)
        queue.add(small)
        owners = [serve(queue).owner for _ in range(99)]
        before = owners.index(small)
        assert 100 * before <= CHUNK_TOKENS
        assert owners[before : before + 3] == [small] * 3


async def test_large_beside_a_stream():
    """A large request gets its half of the work, piece by piece, while small ones never stop coming."""
    queue, large = Queue(), make_request(*[100] * 500)
    queue.add(large)
    queue.add(make_request(100))
    served = Counter()
    while served[True] < 500:
        job = serve(queue)
        served[job.owner is large] += job.tokens / 100
        if job.owner is not large:
            queue.add(make_request(100))
    assert served[False] * 100 <= 500 * 100 + 2 * CHUNK_TOKENS


async def test_large_beside_a_flood():
    """However many small requests keep coming, a large one has left when a full queue has been served."""
    queue = Queue(tokens_max=3000)
    for _ in range(100):
        queue.add(make_request(10))
    large = make_request(*[100] * 10)
    queue.add(large)
    waited = 0
    while any(job.owner is large for job in queue):
        job = serve(queue)
        waited += job.tokens
        if job.owner is not large:
            queue.add(make_request(10))
    assert waited <= 3000 + 100


async def test_late_and_put_back():
    """What was late when its worker was lost is late when it is put back, and leaves first, in its order."""
    queue, large = Queue(tokens_max=100), make_request(*[10] * 5)
    queue.add(large)
    served = []
    while not queue._late:
        queue.add(make_request(10))
        served.append(serve(queue))
    lost = [serve(queue) for _ in range(2)]
    queue.add(make_request(10))
    assert {job.owner for job in lost} == {large}
    queue.put_back(lost)
    left = [job for job in large.jobs if job not in served]
    assert list(queue)[: len(left)] == left


async def test_as_a_whole():
    """Requests of like size leave as wholes, in the order in which they came."""
    queue = Queue()
    requests = [make_request(*[50] * 4) for _ in range(5)]
    for request in requests:
        queue.add(request)
    assert [serve(queue).owner for _ in range(20)] == [request for request in requests for _ in range(4)]


async def test_ahead_of():
    """What leaves before a request of a size can be told before it comes."""
    queue = Queue()
    queue.add(make_request(*[100] * 200))
    queue.add(make_request(50, 50))
    for tokens in (10, 100, 1000, 5000):
        ahead = queue.ahead_of(tokens)
        probe = make_request(tokens)
        queue.add(probe)
        waiting = list(queue)
        assert ahead == sum(job.tokens for job in waiting[: waiting.index(probe.jobs[0])])
        queue.forget(probe)


@given(st.lists(st.lists(st.integers(1, 900), min_size=1, max_size=20), min_size=2, max_size=6))
def test_equal_shares(lengths):
    """Requests that wait at the same time are served alike, to within a piece of each."""

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
            assert not waiting or max(waiting) - min(waiting) <= 2 * CHUNK_TOKENS

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
        st.tuples(st.sampled_from(["take", "drop", "lose"]), st.lists(st.integers(0, 20), max_size=6)),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=30,
)


@given(steps)
@settings(max_examples=60)
def test_accounts(steps):
    """Whatever is added and taken, the queue knows how many jobs and tokens wait, and in which order."""

    async def run():
        queue, held = Queue(tokens_max=40), set()
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
                (queue.drop if verb == "drop" else queue.take)(some)
                held -= set(some)
                if verb == "lose":
                    queue.put_back(some)
                    held |= set(some)
            assert set(queue) == held
            assert len(queue) == len(held)
            assert queue.tokens == sum(job.tokens for job in held)
            turns = [job.turn for job in queue if job not in queue._late]
            assert turns == sorted(turns)

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
