"""A worker that keeps crashing is restarted after longer and longer pauses, and at last not waited for."""

from __future__ import annotations

from random import random

from embeddings_gateway.workers.local.breaker import (
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    CRASHES_MAX,
    WINDOW_S,
    Backoff,
    Breaker,
)


def crashing(times, worked=True):
    """Return a breaker that has counted crashes at these times."""
    breaker = Breaker()
    for now in times:
        breaker.crash(now, worked=worked)
    return breaker


def test_opens():
    """Five crashes within a minute open it; four do not, nor five in more time."""
    assert crashing(range(CRASHES_MAX)).is_open
    assert not crashing(range(CRASHES_MAX - 1)).is_open
    assert not crashing(n * WINDOW_S / (CRASHES_MAX - 1) for n in range(CRASHES_MAX)).is_open


def test_stays_open():
    """It stays open, however slowly the next crashes follow, until the worker works."""
    breaker = crashing([0, 1, 2, 3, 4, 1000])
    assert breaker.is_open
    breaker.half_open()
    assert not breaker.is_open


def test_half_open():
    """Half open, one crash within the minute opens it at once; a later one does not."""
    soon, later = crashing(range(5)), crashing(range(5))
    for breaker in (soon, later):
        breaker.half_open()
    soon.crash(10, worked=True)
    later.crash(4 + WINDOW_S, worked=True)
    assert (soon.is_open, later.is_open) == (True, False)


def test_slow_crashes():
    """Five crashes in a row without any work open it as well, however far apart."""
    assert crashing(range(0, 5000, 1000), worked=False).is_open
    breaker = crashing(range(0, 4000, 1000), worked=False)
    breaker.crash(4000, worked=True)
    breaker.crash(5000, worked=False)
    assert not breaker.is_open


def test_hopeless():
    """Five failed starts in a row are hopeless; a crash after a good start does not count as one."""
    breaker = Breaker()
    for now in range(0, 5000, 1000):
        assert not breaker.hopeless
        breaker.failed_start(now)
    assert (breaker.is_open, breaker.hopeless) == (True, True)
    breaker.half_open()
    breaker.crash(5000, worked=False)
    assert (breaker.is_open, breaker.hopeless) == (True, False)


def test_exonerated():
    """A crash that an input caused does not count."""
    breaker = Breaker()
    for now in range(20):
        breaker.crash(now, worked=False)
        breaker.exonerate(1)
        breaker.end_search()
    assert not breaker.is_open


def test_search():
    """Crashes of a search count when it ends, except the last ones, which are exonerated."""
    breaker = crashing(range(3))
    for now in range(10, 14):
        breaker.crash_in_search(now)
    assert not breaker.is_open
    breaker.exonerate(2)
    breaker.end_search()
    assert breaker.is_open


def test_backoff():
    """The pause doubles each time, up to a bound; jitter takes off half of it at most."""
    backoff = Backoff()
    longest = BACKOFF_S_MIN
    for _ in range(12):
        assert longest / 2 <= backoff.next_s(random()) <= longest
        longest = min(BACKOFF_S_MAX, 2 * longest)
    assert longest == BACKOFF_S_MAX
    backoff.reset()
    assert backoff.next_s(0) == BACKOFF_S_MIN
