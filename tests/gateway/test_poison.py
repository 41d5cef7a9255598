"""Inputs that ended a worker are remembered for a while, and nothing of them is kept."""

from __future__ import annotations

from embeddings_gateway.batching.poison import REMEMBERED_MAX, REMEMBERED_S, Poison


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self):
        """Return the time."""
        return self.now


def test_remembered_for_a_while():
    """What is added is known until its time is over, and nothing else is."""
    clock = Clock()
    poison = Poison(clock)
    assert b"a" not in poison
    poison.add(b"a")
    clock.now = REMEMBERED_S - 1
    assert b"a" in poison
    assert b"b" not in poison
    clock.now = REMEMBERED_S
    assert b"a" not in poison
    assert len(poison) == 0


def test_again():
    """What is added again is known for the whole while again, and others leave before it."""
    clock = Clock()
    poison = Poison(clock)
    for now, content in ((0, b"a"), (1, b"b"), (2, b"a")):
        clock.now = now
        poison.add(content)
    clock.now = REMEMBERED_S + 1
    assert b"b" not in poison
    assert b"a" in poison


def test_bounded():
    """However many are added, only so many of the last ones are known."""
    poison = Poison()
    for number in range(REMEMBERED_MAX + 1):
        poison.add(str(number).encode())
    assert len(poison) == REMEMBERED_MAX
    assert b"0" not in poison
    assert str(REMEMBERED_MAX).encode() in poison


def test_keyed():
    """What is kept tells nothing without the key, which differs from process to process."""
    one, other = Poison(), Poison()
    one.add(b"a")
    other.add(b"a")
    assert one._until.keys() != other._until.keys()
