"""What may wait for a model: all of a call or nothing, and only what can be done in time."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from embeddings_gateway.batching.queue import SPEED_VALID_S, Admission, Queue
from embeddings_gateway.batching.request import ANONYMOUS, Caller
from embeddings_gateway.batching.speed import Speed
from embeddings_gateway.errors import DeadlinePassed, Overloaded
from tests.gateway.fakes import all_quiet, make_request

pytestmark = pytest.mark.anyio

BULK = Caller(traffic="bulk")


class Gate:
    """An admission with what it knows.

    Args:
        tokens_per_s: of each of two engines; 0 is unknown.
        age_s: how long ago that was measured.
    """

    def __init__(self, tokens_per_s=0.0, age_s=0.0, max_tokens=1000):
        self.queue, speed = Queue(max_tokens), Speed()
        if tokens_per_s:
            speed.observe(int(tokens_per_s), 1.0, time.monotonic() - age_s)
        self.admission = Admission(self.queue, speed, lambda: 2)

    def reserve(self, tokens, seconds=math.inf, caller=ANONYMOUS):
        """Return the room of a call that has so many seconds."""
        return self.admission.reserve(tokens, time.monotonic() + seconds, caller)

    def refusal(self, tokens, seconds=math.inf, caller=ANONYMOUS):
        """Return why a call is not let in."""
        with pytest.raises((Overloaded, DeadlinePassed)) as refusal, self.reserve(tokens, seconds, caller):
            pass
        return refusal.value


async def test_all_or_nothing():
    """A call that does not fit as a whole is refused as a whole; a call that just fits is admitted."""
    gate = Gate(max_tokens=100)
    gate.queue.add(make_request(30, 30))
    assert isinstance(gate.refusal(41), Overloaded)
    with gate.reserve(40):
        assert isinstance(gate.refusal(1), Overloaded)
    with gate.reserve(40):
        pass


async def test_estimate_is_corrected():
    """An estimate takes room while a call is prepared, is corrected once, and ends with the call."""
    gate = Gate(max_tokens=100)
    with gate.reserve(90) as ticket:
        assert isinstance(gate.refusal(20), Overloaded)
        ticket.correct(50)
        gate.queue.add(make_request(50))
        with gate.reserve(50):
            pass
    with pytest.raises(Overloaded), gate.reserve(10) as ticket:
        ticket.correct(51)
    assert repr(gate.admission) == "<Admission 0 tokens reserved>"


async def test_work_that_goes_on():
    """What is still worked on when a call ends early stays reserved until it is done, but no more than the call had."""
    gate = Gate(max_tokens=100)
    works = [asyncio.get_running_loop().create_future() for _ in range(3)]
    works[2].set_result(None)
    with gate.reserve(90) as ticket:
        for work, tokens in zip(works, (60, 20, 1000), strict=True):
            ticket.hold(work, tokens)
    await all_quiet()
    assert repr(gate.admission) == "<Admission 80 tokens reserved>"
    works[0].cancel()
    await all_quiet()
    assert repr(gate.admission) == "<Admission 20 tokens reserved>"
    works[1].set_result(None)
    await all_quiet()
    assert repr(gate.admission) == "<Admission 0 tokens reserved>"
    with gate.reserve(10) as ticket:
        ticket.hold(asyncio.get_running_loop().create_future(), 1000)
    assert repr(gate.admission) == "<Admission 10 tokens reserved>"


async def test_no_class_keeps_the_other_out():
    """Bulk calls have half as much room as interactive ones, what they prepare included, and of their own."""
    gate = Gate(max_tokens=100)
    gate.queue.add(make_request(100))
    with gate.reserve(40, caller=BULK):
        assert isinstance(gate.refusal(11, caller=BULK), Overloaded)
        with gate.reserve(10, caller=BULK):
            assert isinstance(gate.refusal(1), Overloaded)
    gate.queue.clear()
    gate.queue.add(make_request(50, caller=BULK))
    with gate.reserve(100):
        assert isinstance(gate.refusal(1, caller=BULK), Overloaded)


@pytest.mark.parametrize(
    ("speed", "excess", "retry_after"),
    [(50, 1, 1), (50, 100, 1), (50, 101, 2), (50, 1000, 10), (50, 900_000, 60), (0, 1000, 1)],
)
async def test_retry_after(speed, excess, retry_after):
    """Retry-After is how long the engines need for the excess tokens, from 1 to 60 seconds."""
    assert Gate(tokens_per_s=speed).refusal(1000 + excess).retry_after == retry_after


async def test_deadlines():
    """A call that cannot meet its deadline is refused: by its own size, or by what waits before it."""
    gate = Gate(tokens_per_s=50)
    assert isinstance(gate.refusal(200, seconds=1), DeadlinePassed)
    gate.queue.add(make_request(400))
    error = gate.refusal(500, seconds=6.5)
    assert isinstance(error, Overloaded)
    assert error.retry_after == 3
    with gate.reserve(100, seconds=6), gate.reserve(10, seconds=1):  # which goes first: it is small
        pass
    with Gate().reserve(900, seconds=0.001):  # nothing is known of the speed
        pass


async def test_what_is_prepared_is_not_waited_for():
    """Tokens in preparation take room in the queue, but no time from others' deadlines."""
    gate = Gate(tokens_per_s=50)
    with gate.reserve(900):
        with gate.reserve(10, seconds=5):
            pass
        assert isinstance(gate.refusal(101), Overloaded)


async def test_a_speed_of_long_ago():
    """A speed that was measured more than a minute ago refuses no call of an idle model."""
    gate = Gate(tokens_per_s=50, age_s=SPEED_VALID_S + 1)
    with gate.reserve(100, seconds=0.5):
        pass
    gate.queue.add(make_request(1))
    assert isinstance(gate.refusal(100, seconds=0.5), DeadlinePassed)
