"""Inputs that crashed a worker are remembered for a while, and nothing of them is kept."""

from __future__ import annotations

from embeddings_gateway.workers.isolation import MAX_REMEMBERED, REMEMBERED_S, Quarantine


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self):
        """Return the time."""
        return self.now


def test_remembered_for_a_while():
    """An input is known until its time is over, and no other is."""
    clock = Clock()
    quarantine = Quarantine(clock)
    assert b"a" not in quarantine
    quarantine.add(b"a")
    clock.now = REMEMBERED_S - 1
    assert b"a" in quarantine
    assert b"b" not in quarantine
    clock.now = REMEMBERED_S
    assert b"a" not in quarantine
    assert len(quarantine) == 0


def test_again():
    """An input that is added again is known for the full time again, and others expire before it."""
    clock = Clock()
    quarantine = Quarantine(clock)
    for now, content in ((0, b"a"), (1, b"b"), (2, b"a")):
        clock.now = now
        quarantine.add(content)
    clock.now = REMEMBERED_S + 1
    assert b"b" not in quarantine
    assert b"a" in quarantine


def test_bounded():
    """Only a limited number of the latest inputs is known."""
    quarantine = Quarantine()
    for number in range(MAX_REMEMBERED + 1):
        quarantine.add(str(number).encode())
    assert len(quarantine) == MAX_REMEMBERED
    assert b"0" not in quarantine
    assert str(MAX_REMEMBERED).encode() in quarantine


def test_keyed():
    """The stored hashes say nothing without the key, which differs between processes."""
    first, second = Quarantine(), Quarantine()
    first.add(b"a")
    second.add(b"a")
    assert first._until.keys() != second._until.keys()
