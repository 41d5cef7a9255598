"""The planner's promises, for queues and limits of every kind, and what the batches of a busy queue waste."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings_gateway.batching.planner import Limits, cost, plan

BATCHES = 60
LONGEST = 512

limits = st.builds(
    Limits,
    cost=st.sampled_from(["padded", "packed"]),
    max_tokens=st.integers(1, 200),
    max_inputs=st.integers(1, 10),
)
queues = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def as_lengths(lengths):
    """Return lengths as the planner takes them."""
    return np.array(lengths, np.int32)


def picked_of(lengths, bounds):
    """Return the positions of the next batch."""
    return plan(as_lengths(lengths), bounds).picked.tolist()


def batches(lengths, bounds):
    """Run a queue empty; yield the lengths of each batch, and the positions in the queue as it was."""
    waiting = list(lengths)
    while waiting:
        picked = picked_of(waiting, bounds)
        yield as_lengths([waiting[position] for position in picked]), picked
        waiting = [tokens for position, tokens in enumerate(waiting) if position not in picked]


@given(queues, limits)
def test_batches(lengths, bounds):
    """Each row leaves once, in a batch within the limits unless it is alone, in the order in which they waited."""
    left = 0
    for batch, picked in batches(lengths, bounds):
        left += len(batch)
        assert picked == sorted(set(picked))
        assert len(batch) <= bounds.max_inputs
        assert len(batch) == 1 or cost(batch, bounds) <= bounds.max_tokens
    assert left == len(lengths)


@given(queues, limits)
def test_first_leaves(lengths, bounds):
    """The first row is in every batch: no row waits for more batches than rows stand before it."""
    for _, picked in batches(lengths, bounds):
        assert picked[0] == 0


@given(queues, limits)
def test_padding_is_bounded(lengths, bounds):
    """Padding is at most a tenth of a batch's cost, or a small part of the token budget."""
    bounds = bounds._replace(cost="padded", max_tokens=4 * bounds.max_tokens)
    for batch, _ in batches(lengths, bounds):
        padding = cost(batch, bounds) - batch.sum()
        assert padding <= max(cost(batch, bounds) / 10, bounds.max_tokens / 32)


@given(queues, limits)
def test_purity(lengths, bounds):
    """Planning changes nothing, and the same queue gets the same plan."""
    array = as_lengths(lengths)
    array.flags.writeable = False
    first, second = plan(array, bounds), plan(array, bounds)
    assert first.picked.tolist() == second.picked.tolist()
    assert first.is_full == second.is_full


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "max_inputs", "picked"),
    [
        pytest.param([10, 90, 11, 9], 200, 8, [0, 2, 3], id="like the first"),
        pytest.param([50, 48, 51, 49, 49, 49], 2000, 3, [0, 3, 4], id="least padding, oldest of equals"),
        pytest.param([50, 50, 50, 51, 48], 2000, 4, [0, 1, 2, 4], id="a longer row has all others padded"),
        pytest.param([500, 1], 100, 8, [0], id="larger than the budget"),
        pytest.param([50, 50, 50], 100, 8, [0, 1], id="within the budget"),
    ],
)
def test_padded(lengths, max_tokens, max_inputs, picked):
    """A padded batch takes the rows that are most like the first, from wherever they wait."""
    assert picked_of(lengths, Limits("padded", max_tokens, max_inputs)) == picked


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "max_inputs", "picked"),
    [
        pytest.param([10, 90, 195, 100, 11], 200, 8, [0, 1, 3], id="whatever fits"),
        pytest.param([10, 10, 10], 200, 2, [0, 1], id="so many rows"),
        pytest.param([150, 100, 10, 10, 10], 200, 3, [0, 2, 3], id="so many rows, passing over one"),
        pytest.param([500, 1], 100, 8, [0], id="larger than the budget"),
    ],
)
def test_packed(lengths, max_tokens, max_inputs, picked):
    """A packed batch takes in order whatever fits, however unlike."""
    assert picked_of(lengths, Limits("packed", max_tokens, max_inputs)) == picked


def test_costs():
    """A padded batch costs its longest row times the count, a packed one the sum."""
    assert cost(as_lengths([3, 10]), Limits("padded", 1, 1)) == 20
    assert cost(as_lengths([3, 10]), Limits("packed", 1, 1)) == 13


@pytest.mark.parametrize(
    ("lengths", "is_full"), [([49], False), ([50], True), ([1] * 3, False), ([1] * 4, True), ([10, 95], True)]
)
def test_full(lengths, is_full):
    """A batch is full when it is half of the budget, has all the rows it may, or others wait beside it."""
    assert plan(as_lengths(lengths), Limits("packed", max_tokens=100, max_inputs=4)).is_full == is_full


def short(source):
    """Return the length of a sentence."""
    return source.gauss(14, 6)


def mixed(source):
    """Return the length of one to sixteen sentences."""
    return sum(max(3, short(source)) for _ in range(source.randint(1, 16)))


def lognormal(source):
    """Return a length as they are in many collections of texts."""
    return source.lognormvariate(3.5, 1)


def bimodal(source):
    """Return the length of a query or of a page."""
    return source.choice([5, 500])


def uniform(source):
    """Return any length."""
    return source.randint(3, LONGEST)


def busy(length, source, bounds):
    """Yield the batches of a queue that is filled up again after each, to more than the planner looks at."""
    waiting = []
    for _ in range(BATCHES):
        while sum(waiting) < 2 * bounds.window_batches * bounds.max_tokens:
            tokens = min(LONGEST, max(3, round(length(source))))
            waiting.insert(source.randint(len(waiting) // 2, len(waiting)), tokens)
        ends = np.cumsum(waiting)
        window = 1 + int(np.searchsorted(ends, bounds.window_batches * bounds.max_tokens))
        picked = picked_of(waiting[:window], bounds)
        yield as_lengths([waiting[position] for position in picked])
        for position in reversed(picked):
            del waiting[position]


@pytest.mark.parametrize("length", [short, mixed, lognormal, bimodal, uniform])
@given(st.randoms(use_true_random=True), st.sampled_from([256, 512, 1024]))
@settings(max_examples=10)
def test_padding_of_a_busy_queue(length, source, max_tokens):
    """Less than a tenth of what the batches of a busy queue compute is padding."""
    bounds = Limits("padded", max_tokens, max_inputs=256)
    run = list(busy(length, source, bounds))
    assert sum(int(batch.sum()) for batch in run) > 0.9 * sum(cost(batch, bounds) for batch in run)


@given(st.randoms(use_true_random=True), st.sampled_from([256, 512, 1024]))
@settings(max_examples=10)
def test_fullness_of_a_busy_queue(source, max_tokens):
    """Padding is not saved by small batches: those of a busy queue of sentences are half full and more."""
    bounds = Limits("padded", max_tokens, max_inputs=256)
    assert sum(cost(batch, bounds) for batch in busy(short, source, bounds)) > BATCHES * max_tokens / 2
