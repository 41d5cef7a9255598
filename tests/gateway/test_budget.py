"""After memory ran out batches are smaller, and grow slowly again."""

from __future__ import annotations

from embeddings_gateway.batching.budget import Budget


def test_unbounded():
    """Until memory runs out the backend's word counts, whatever was computed."""
    budget = Budget()
    budget.sufficed(512)
    assert budget.within(512) == 512


def test_shrinks():
    """A batch that memory ran out on halves the budget, and another one halves it again."""
    budget = Budget()
    budget.exhausted(512)
    assert budget.within(512) == 256
    budget.exhausted(256)
    assert budget.within(512) == 128
    budget.exhausted(512)  # of a batch that was formed before
    assert budget.within(512) == 128
    budget.exhausted(1)
    assert budget.within(512) == 1


def test_recovers_slowly():
    """Batches that use most of it let it grow, little by little, to what it was; small ones do not."""
    budget = Budget()
    budget.exhausted(512)
    budget.sufficed(10)
    assert budget.within(512) == 256
    grown = []
    while (now := budget.within(512)) < 512:
        budget.sufficed(now)
        grown.append(now)
    assert grown == sorted(grown)
    assert 20 < len(grown) < 60
