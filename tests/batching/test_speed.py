"""What is learned from batches: how fast an engine is, and how large a batch fits into memory."""

from __future__ import annotations

import pytest

from embeddings_gateway.batching.speed import MemoryLimit, Speed
from embeddings_gateway.workers.engine import HANG_FACTOR


def test_speed():
    """The speed is that of the first batch, and then moves with each."""
    speed = Speed()
    speed.observe(1000, 1.0, now=5.0)
    assert (speed.tokens_per_s, speed.known_at) == (1000, 5.0)
    for _ in range(100):
        speed.observe(3000, 1.0, now=6.0)
    assert speed.tokens_per_s == pytest.approx(3000, rel=0.01)


def test_timeout():
    """A batch may take many times as long as the measured speed predicts, or a guess while none is."""
    speed = Speed()
    assert speed.timeout_s(1000, guess=0.0) == 0.0
    assert speed.timeout_s(1000, guess=100.0) == 10 * HANG_FACTOR
    speed.observe(1000, 1.0, now=0.0)
    assert speed.timeout_s(1000, guess=100.0) == HANG_FACTOR


def test_unbounded():
    """Until memory runs out the backend's word counts, whatever was computed."""
    limit = MemoryLimit()
    limit.sufficed(512)
    assert limit.cap(512) == 512


def test_shrinks():
    """A batch that memory ran out on halves the limit, and another one halves it again."""
    limit = MemoryLimit()
    for cost, cap in [(512, 256), (256, 128), (512, 128), (1, 1)]:  # the third was planned before
        limit.exceeded(cost)
        assert limit.cap(512) == cap


def test_recovers_slowly():
    """Batches that use most of it let it grow, little by little, to what it was; small ones do not."""
    limit = MemoryLimit()
    limit.exceeded(512)
    limit.sufficed(10)
    assert limit.cap(512) == 256
    grown = []
    while (now := limit.cap(512)) < 512:
        limit.sufficed(now)
        grown.append(now)
    assert grown == sorted(grown)
    assert 20 < len(grown) < 60
