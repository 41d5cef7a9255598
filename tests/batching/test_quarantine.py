"""Inputs that failed are remembered for a while, and nothing of them is kept."""

from __future__ import annotations

import pytest

from embeddings_gateway.workers.engine import CallFailed, EngineOutOfMemory, WorkerCrashed
from embeddings_gateway.workers.isolation import (
    FAILING_REMEMBERED_S,
    KILLER_REMEMBERED_S,
    MAX_REMEMBERED,
    Quarantine,
)

CRASH = WorkerCrashed()


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self):
        """Return the time."""
        return self.now


@pytest.mark.parametrize(
    ("failure", "seconds"), [(CRASH, KILLER_REMEMBERED_S), (CallFailed(), FAILING_REMEMBERED_S)]
)
def test_remembered_for_a_while(failure, seconds):
    """An input is known until its time is over, ten minutes after a crash and one after a failure."""
    clock = Clock()
    quarantine = Quarantine(clock)
    assert b"a" not in quarantine
    quarantine.add(b"a", failure)
    clock.now = seconds - 1
    assert b"a" in quarantine
    assert b"b" not in quarantine
    clock.now = seconds
    assert b"a" not in quarantine
    assert len(quarantine) == 0


def test_out_of_memory():
    """An input that only memory was lacking for is not remembered: something else may have used it."""
    quarantine = Quarantine()
    quarantine.add(b"a", EngineOutOfMemory())
    assert b"a" not in quarantine


def test_failing_inputs_do_not_displace_killers():
    """However many inputs merely fail, one that crashes a worker stays known."""
    quarantine = Quarantine()
    quarantine.add(b"killer", CRASH)
    for number in range(MAX_REMEMBERED + 1):
        quarantine.add(str(number).encode(), CallFailed())
    assert b"killer" in quarantine


def test_again():
    """An input that is added again is known for the full time again, and others expire before it."""
    clock = Clock()
    quarantine = Quarantine(clock)
    for now, content in ((0, b"a"), (1, b"b"), (2, b"a")):
        clock.now = now
        quarantine.add(content, CRASH)
    clock.now = KILLER_REMEMBERED_S + 1
    assert b"b" not in quarantine
    assert b"a" in quarantine


def test_bounded():
    """Only a limited number of the latest inputs is known."""
    quarantine = Quarantine()
    for number in range(MAX_REMEMBERED + 1):
        quarantine.add(str(number).encode(), CRASH)
    assert len(quarantine) == MAX_REMEMBERED
    assert b"0" not in quarantine
    assert str(MAX_REMEMBERED).encode() in quarantine


def test_keyed():
    """The stored hashes say nothing without the key, which differs between processes."""
    first, second = Quarantine(), Quarantine()
    first.add(b"a", CRASH)
    second.add(b"a", CRASH)
    assert first._killers._until.keys() != second._killers._until.keys()
