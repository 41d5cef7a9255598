"""A worker that keeps dying is waited for less and less, and at last not at all."""

from __future__ import annotations

from embeddings_gateway.workers.backoff import SECONDS_MAX, SECONDS_MIN, Backoff
from embeddings_gateway.workers.breaker import DEATHS_MAX, WINDOW_S, Breaker


def dying(times, fruitful=True):
    """Return a breaker that has seen deaths at these times."""
    breaker = Breaker()
    for now in times:
        breaker.death(now, fruitful=fruitful)
    return breaker


def test_opens():
    """Five deaths within a minute open it; four do not, nor five in more."""
    assert dying(range(DEATHS_MAX)).open
    assert not dying(range(DEATHS_MAX - 1)).open
    assert not dying(n * WINDOW_S / (DEATHS_MAX - 1) for n in range(DEATHS_MAX)).open


def test_stays_open():
    """It stays open however slowly the next deaths follow, until the worker works."""
    breaker = dying([0, 1, 2, 3, 4, 1000])
    assert breaker.open
    breaker.probed()
    assert not breaker.open


def test_half_open():
    """A worker that works and dies again within the minute opens it at once; after a quiet one not."""
    soon, later = dying(range(5)), dying(range(5))
    for breaker in (soon, later):
        breaker.probed()
    soon.death(10, fruitful=True)
    later.death(4 + WINDOW_S, fruitful=True)
    assert (soon.open, later.open) == (True, False)


def test_slow_deaths():
    """Five deaths in a row without any work done open it as well, however far apart."""
    assert dying(range(0, 5000, 1000), fruitful=False).open
    breaker = dying(range(0, 4000, 1000), fruitful=False)
    breaker.death(4000, fruitful=True)
    breaker.death(5000, fruitful=False)
    assert not breaker.open


def test_hopeless():
    """Five starts in a row that come to nothing are hopeless; after a good one a death is none of these."""
    breaker = Breaker()
    for now in range(0, 5000, 1000):
        assert not breaker.hopeless
        breaker.failed_start(now)
    assert (breaker.open, breaker.hopeless) == (True, True)
    breaker.probed()
    breaker.death(5000, fruitful=False)
    assert (breaker.open, breaker.hopeless) == (True, False)


def test_forgiven():
    """A death that turned out to be an input's doing does not count."""
    breaker = Breaker()
    for now in range(20):
        breaker.death(now, fruitful=False)
        breaker.explain(1)
        breaker.judge()
    assert not breaker.open


def test_backoff():
    """The pause doubles with every start that comes to nothing, up to a bound; jitter halves it at most."""
    backoff = Backoff()
    longest = SECONDS_MIN
    for _ in range(12):
        assert longest / 2 <= backoff.pause() <= longest
        longest = min(SECONDS_MAX, 2 * longest)
    assert longest == SECONDS_MAX
    backoff.fruitful()
    assert backoff.pause() <= SECONDS_MIN
