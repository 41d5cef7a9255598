"""The fair order: between callers by weight, between the requests of one, and exact accounts of what waits."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.batching.fair_order import CHUNK_TOKENS, MAX_FLOWS, FairOrder
from embeddings_gateway.batching.request import Caller, Request
from embeddings_gateway.errors import InvalidRequest
from tests.gateway.fakes import make_request

pytestmark = pytest.mark.anyio


def take(order, *positions):
    """Take the rows at some positions out, as served, and return their chunks."""
    return order.take(order.window(1 << 40, 1 << 40), np.array(positions, np.int64))


def serve(order):
    """Take the first row out, as served, and return its request, its number and its tokens."""
    (chunk,) = order.take(order.window(1, 1), np.array([0]))
    return chunk.request, int(chunk.rows[0]), chunk.tokens


def rows_of(chunks):
    """Return request and number of each row of some chunks, in order."""
    return [(chunk.request, row) for chunk in chunks for row in chunk.rows.tolist()]


def waiting(order):
    """Return request and number of each row that waits, in the order in which they would leave."""
    return rows_of(order.window(1 << 40, 1 << 40))


async def test_small_after_large():
    """A small request that arrives behind 2000 rows waits for one chunk of them at most."""
    for served_before in range(0, 100, 7):
        order = FairOrder()
        order.add(make_request(*[100] * 2000))
        for _ in range(served_before):
            serve(order)
        small = make_request(100, 100, 100)
        order.add(small)
        served = [serve(order)[0] for _ in range(99)]
        before = served.index(small)
        assert 100 * before <= CHUNK_TOKENS
        assert served[before : before + 3] == [small] * 3


async def test_large_beside_a_flood():
    """A large request beside a flood of small ones has left once a full queue has been served."""
    order = FairOrder(max_tokens=3000)
    for _ in range(100):
        order.add(make_request(10))
    large = make_request(*[100] * 10)
    order.add(large)
    served, left = 0, 10
    while left:
        request, _, tokens = serve(order)
        served += tokens
        left -= request is large
        if request is not large:
            order.add(make_request(10))
    assert served <= 3000 + 100


async def test_overdue_and_put_back():
    """Rows that were lost with a worker leave first, in their order, before overdue ones."""
    order, large = FairOrder(max_tokens=100), make_request(*[10] * 5)
    order.add(large)
    served = []
    while not any(chunk.is_overdue for chunk in order.window(1 << 40, 1 << 40)):
        order.add(make_request(10))
        served.append(serve(order)[:2])
    lost = take(order, 0, 1)
    order.add(make_request(10))
    assert {chunk.request for chunk in lost} == {large}
    order.put_back(lost)
    left = [(large, row) for row in range(5) if (large, row) not in served]
    assert waiting(order)[: len(left)] == left


async def test_as_a_whole():
    """Requests of similar size leave one after the other, in the order of arrival."""
    order = FairOrder()
    requests = [make_request(*[50] * 4) for _ in range(5)]
    for request in requests:
        order.add(request)
    assert [serve(order)[0] for _ in range(20)] == [request for request in requests for _ in range(4)]


@given(st.lists(st.lists(st.integers(1, 900), min_size=1, max_size=20), min_size=2, max_size=6))
def test_equal_shares(lengths):
    """Requests that wait together get equal shares, to within a chunk, and the rows of each leave in order."""

    async def run():
        order, requests = FairOrder(), [make_request(*some) for some in lengths]
        for request in requests:
            order.add(request)
        served, left = Counter(), {request: len(request.batch) for request in requests}
        while len(order):
            request, row, tokens = serve(order)
            assert row == len(request.batch) - left[request]
            served[request] += tokens
            left[request] -= 1
            still = [served[request] for request in requests if left[request]]
            assert not still or max(still) - min(still) <= 2 * CHUNK_TOKENS

    asyncio.run(run())


@pytest.mark.parametrize("weights", [(1, 2), (1, 1), (3, 0.5)])
@pytest.mark.parametrize("rows", [[100] * 400, [3000] * 40, [7] * 40])
async def test_shares_of_callers(weights, rows):
    """Callers get tokens by their weights while both wait, whatever the sizes of their requests."""
    order = FairOrder()
    first, second = (Caller(str(number), weight) for number, weight in enumerate(weights))
    for caller, requests in ((first, 1), (second, 8)):
        for _ in range(requests):
            order.add(make_request(*rows * (8 // requests), caller=caller))
    served, step = Counter(), max(*rows, CHUNK_TOKENS)
    left = Counter({first: 8 * sum(rows), second: 8 * sum(rows)})
    while min(left.values()):
        request, _, tokens = serve(order)
        served[request.caller] += tokens
        left[request.caller] -= tokens
        if min(left.values()):
            assert abs(served[first] / weights[0] - served[second] / weights[1]) <= step / min(weights)


async def test_many_requests_do_not_hold_up_anothers_one():
    """A caller's request does not wait behind another caller's thousand requests."""
    order, one = FairOrder(), make_request(100, caller=Caller("one"))
    for _ in range(1000):
        order.add(make_request(100, caller=Caller("many")))
    serve(order)
    order.add(one)
    assert one in {serve(order)[0] for _ in range(2)}


async def test_idle_callers_save_nothing():
    """A caller that was idle for long gets no more than its share afterwards."""
    order, busy, late = FairOrder(), Caller("busy"), Caller("late")
    order.add(make_request(*[100] * 500, caller=busy))
    for _ in range(300):
        serve(order)
    order.add(make_request(*[100] * 200, caller=late))
    served = Counter(serve(order)[0].caller for _ in range(100))
    assert served[busy] >= 50 - CHUNK_TOKENS // 100


async def test_outputs_of_a_window():
    """A window has only chunks with the outputs of its first one; the others keep their order."""
    order = FairOrder()
    outputs = [("dense",), ("sparse",), ("dense", "sparse"), ("dense",)]
    requests = [make_request(3, outputs=some) for some in outputs]
    for request in requests:
        order.add(request)
    assert waiting(order) == [(requests[0], 0), (requests[3], 0)]
    take(order, 0, 1)
    assert waiting(order) == [(requests[1], 0)]


@pytest.mark.parametrize("others", [0, 2])
async def test_ahead_of(others):
    """The tokens that leave before a request can be predicted, to within a chunk of each other caller."""
    order = FairOrder()
    for number in range(others):
        order.add(make_request(*[100] * 50, caller=Caller(str(number))))
    order.add(make_request(*[100] * 200))
    order.add(make_request(50, 50))
    for tokens in (10, 100, 1000, 5000):
        ahead = order.ahead_of(tokens, Caller())
        probe = make_request(tokens)
        order.add(probe)
        rows = waiting(order)
        before = rows[: rows.index((probe, 0))]
        assert abs(ahead - sum(int(request.batch.lengths[row]) for request, row in before)) <= (
            others * CHUNK_TOKENS
        )
        order.discard(probe)


async def test_ahead_of_nothing_counts_twice():
    """The prediction never exceeds what waits, also if others' requests are overdue."""
    order, other = FairOrder(max_tokens=100), Caller("other")
    order.add(make_request(*[10] * 5, caller=other))
    while not any(chunk.is_overdue for chunk in order.window(1 << 40, 1 << 40)):
        order.add(make_request(10, caller=other))
        serve(order)
    assert order.ahead_of(1000, Caller("mine")) == order.tokens


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2)),
        st.tuples(st.sampled_from(["take", "lose"]), st.lists(st.integers(0, 20), max_size=6), st.none()),
        st.tuples(st.just("discard"), st.integers(0, 9), st.none()),
        st.tuples(st.just("clear"), st.none(), st.none()),
    ),
    max_size=30,
)


@given(steps)
@settings(max_examples=100)
def test_accounts(steps):
    """After any adding and taking the counts of rows and tokens are right, and each row leaves once."""

    async def run():
        order, held, requests = FairOrder(max_tokens=40), set(), []
        for verb, what, caller in steps:
            if verb == "add":
                requests.append(make_request(*what, caller=Caller(str(caller), 1 + caller)))
                order.add(requests[-1])
                held |= {(requests[-1], row) for row in range(len(what))}
            elif verb == "clear":
                assert set(rows_of(order.clear())) == held
                held = set()
            elif verb == "discard":
                for request in requests[what : what + 1]:
                    gone = {row for row in held if row[0] is request}
                    assert set(rows_of(order.discard(request))) == gone
                    held -= gone
            else:
                positions = sorted({position for position in what if position < len(held)})
                rows = waiting(order)
                taken = take(order, *positions)
                assert rows_of(taken) == [rows[position] for position in positions]
                if verb == "take":
                    held -= set(rows_of(taken))
                else:
                    order.put_back(taken)
            assert Counter(waiting(order)) == Counter(held)
            assert len(order) == len(held)
            assert order.tokens == sum(int(request.batch.lengths[row]) for request, row in held)
            for flow in order._flows.values():
                finishes = [chunk.place for chunk in flow._chunks]
                assert finishes == sorted(finishes)

    asyncio.run(run())


async def test_nothing_to_run():
    """A request whose rows all failed before they could wait leaves nothing behind."""
    order = FairOrder()
    request = Request(Batch.of([np.empty(0, np.int32)]), errors={0: InvalidRequest("too long")}, partial=True)
    order.add(request)
    assert (len(order), order.tokens) == (0, 0)
    reference = weakref.ref(request)
    del request
    gc.collect()
    assert reference() is None


async def test_callers_beside_the_most():
    """Only so many callers have shares of their own; all others share one, and nothing of theirs is lost."""
    order = FairOrder()
    requests = [make_request(10, caller=Caller(str(number))) for number in range(MAX_FLOWS + 50)]
    for request in requests:
        order.add(request)
    assert len(order._flows) == MAX_FLOWS + 1
    again = make_request(10, caller=requests[0].caller)
    order.add(again)
    assert order.discard(requests[-1])
    left = Counter(serve(order)[0] for _ in range(len(order)))
    assert left == Counter([*requests[:-1], again])
    assert not order._flows
    assert not order._flow_of


async def test_a_full_queue_of_one_caller():
    """However long one caller has filled the queue, another one that comes gets its share at once."""
    order, greedy = FairOrder(max_tokens=1000), Caller("greedy")
    for _ in range(100):
        order.add(make_request(10, caller=greedy))
    for _ in range(300):  # most that waits is overdue by then
        serve(order)
        order.add(make_request(10, caller=greedy))
    modest = make_request(*[10] * 5, caller=Caller("modest"))
    order.add(modest)
    first = [serve(order)[0] for _ in range(10)]
    assert first.count(modest) in (4, 5)
