"""The two classes of the queue: bulk requests take what interactive ones leave, and a share at least."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings_gateway.batching.planner import Limits
from embeddings_gateway.batching.queue import Queue
from embeddings_gateway.batching.request import Caller
from tests.gateway.fakes import make_request

pytestmark = pytest.mark.anyio

LIMITS = Limits("packed", max_tokens=100, max_inputs=8)
BULK = Caller(traffic="bulk")
SHARE = 0.05


def serve(queue):
    """Take the next batch; return its class and its tokens."""
    batch = queue.take(queue.next_traffic, LIMITS)
    assert {chunk.request.caller.traffic for chunk in batch.chunks} == {batch.traffic}
    return batch.traffic, sum(chunk.tokens for chunk in batch.chunks)


async def test_interactive_goes_first():
    """Interactive rows leave before bulk rows that came before them, and never in a batch with them."""
    queue = Queue(min_bulk_share=SHARE)
    queue.add(make_request(*[10] * 20, caller=BULK))
    queue.add(make_request(10, 10))
    assert [serve(queue) for _ in range(4)] == [("interactive", 20), *[("bulk", 80)] * 2, ("bulk", 40)]
    assert (len(queue), queue.tokens, queue.take("bulk", LIMITS)) == (0, 0, None)


@pytest.mark.parametrize("share", [0.05, 0.5])
@given(st.lists(st.lists(st.integers(1, 120), min_size=1, max_size=9), min_size=1, max_size=9))
@settings(max_examples=30)
def test_share_of_bulk(share, lengths):
    """While both classes wait, bulk rows get their share of the tokens, to within a batch, and no more."""

    async def run():
        queue, served = Queue(min_bulk_share=share), Counter()
        for step in range(300):
            while queue._orders["interactive"].tokens < 200:
                queue.add(make_request(*lengths[step % len(lengths)]))
            while queue._orders["bulk"].tokens < 200:
                queue.add(make_request(*lengths[-step % len(lengths)], caller=BULK))
            traffic, tokens = serve(queue)
            served[traffic] += tokens
            assert abs(served["bulk"] - share * served.total()) <= 120

    asyncio.run(run())


async def test_bulk_requests_one_after_the_other():
    """Bulk requests that come one at a time, each when the last is done, get no more than their share."""
    queue, served = Queue(min_bulk_share=SHARE), Counter()
    for _ in range(400):
        queue.add(make_request(100))
        if not len(queue._orders["bulk"]):
            queue.add(make_request(100, caller=BULK))
        traffic, tokens = serve(queue)
        served[traffic] += tokens
    assert abs(served["bulk"] - SHARE * served.total()) <= 200


async def test_no_share_is_saved():
    """Bulk rows that are served while no interactive row waits cost no credit, and earn none."""
    queue = Queue(min_bulk_share=SHARE)
    queue.add(make_request(*[100] * 5, caller=BULK))
    assert {serve(queue)[0] for _ in range(4)} == {"bulk"}
    queue.add(make_request(*[100] * 40))
    assert [serve(queue)[0] for _ in range(2)] == ["interactive", "bulk"]
    for _ in range(30):
        assert serve(queue)[0] == "interactive"
    queue.add(make_request(*[100] * 2, caller=BULK))
    assert queue.next_traffic == "interactive"


@pytest.mark.parametrize(
    ("tokens", "traffic", "excess"),
    [(90, "interactive", 0), (91, "interactive", 1), (25, "bulk", 0), (26, "bulk", 1), (126, "bulk", 101)],
)
async def test_excess(tokens, traffic, excess):
    """Each class has room of its own: bulk requests half as much as interactive ones."""
    queue = Queue(max_tokens=100)
    queue.add(make_request(10))
    queue.add(make_request(25, caller=BULK))
    assert queue.excess(tokens, traffic) == excess


async def test_ahead_of():
    """An interactive request waits for a small share of the bulk rows; a bulk request waits for all rows."""
    queue = Queue(min_bulk_share=SHARE)
    queue.add(make_request(*[100] * 100, caller=BULK))
    queue.add(make_request(100))
    assert queue.ahead_of(850, Caller()) == 100 + (100 + 850) * 5 // 95
    assert queue.ahead_of(5000, BULK) == 100 + 4000


async def test_only_full():
    """``only_full`` leaves a batch that more rows would improve."""
    queue = Queue()
    queue.add(make_request(10, 20))
    assert queue.take("interactive", LIMITS, only_full=True) is None
    assert len(queue) == 2
    queue.add(make_request(20))
    assert len(queue.take("interactive", LIMITS, only_full=True).chunks) == 2
    assert queue.take("interactive", LIMITS, only_full=True) is None


async def test_put_back():
    """Lost rows wait again in their class, before the others."""
    queue = Queue()
    requests = [make_request(100, caller=BULK) for _ in range(2)]
    for request in requests:
        queue.add(request)
    lost = queue.take("bulk", LIMITS).chunks
    queue.put_back(lost)
    queue.put_back([])
    assert (len(queue), queue.tokens) == (2, 200)
    assert [queue.take("bulk", LIMITS).chunks[0].request for _ in range(2)] == requests
