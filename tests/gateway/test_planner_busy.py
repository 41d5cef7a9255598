"""A busy queue: what its batches waste, for lengths as they come."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings_gateway.batching.planner import Limits, cost, plan

BATCHES = 60
LENGTH_MAX = 512


@dataclass(eq=False)
class Waiting:
    """A job as the planner sees it."""

    tokens: int
    overtaken: int = 0
    gone: bool = False
    deadline: float = 1.0


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
    return source.randint(3, LENGTH_MAX)


def busy(length, source, bounds):
    """Yield the batches of a queue that is filled up again after each, to more than the planner looks at."""
    waiting = []
    for _ in range(BATCHES):
        while sum(job.tokens for job in waiting) < 2 * bounds.window_batches * bounds.batch_tokens:
            tokens = min(LENGTH_MAX, max(3, round(length(source))))
            waiting.insert(source.randint(len(waiting) // 2, len(waiting)), Waiting(tokens))
        planned = plan(waiting, bounds, now=0.0)
        yield planned.run
        for job in planned.overtaken:
            job.overtaken += 1
        leaving = set(planned.run)
        waiting = [job for job in waiting if job not in leaving]


@pytest.mark.parametrize("length", [short, mixed, lognormal, bimodal, uniform])
@given(st.randoms(use_true_random=True), st.sampled_from([256, 512, 1024]))
@settings(max_examples=10)
def test_padding(length, source, batch_tokens):
    """Less than a tenth of what the batches of a busy queue compute is padding."""
    bounds = Limits("padded", batch_tokens, batch_inputs=256)
    run = list(busy(length, source, bounds))
    tokens = sum(job.tokens for jobs in run for job in jobs)
    assert tokens > 0.9 * sum(cost(jobs, bounds) for jobs in run)


@given(st.randoms(use_true_random=True), st.sampled_from([256, 512, 1024]))
@settings(max_examples=10)
def test_fullness(source, batch_tokens):
    """Padding is not saved by small batches: those of a busy queue of sentences are half full and more."""
    bounds = Limits("padded", batch_tokens, batch_inputs=256)
    assert sum(cost(jobs, bounds) for jobs in busy(short, source, bounds)) > BATCHES * batch_tokens / 2
