"""Turns are taken in rounds, on the same texts, and what fails is told."""

from __future__ import annotations

import numpy as np
import pytest

from bench.compare import Comparer, joined
from bench.plan import Load, Plan
from bench.results import SideFacts
from bench.shape import Shape
from bench.side import SideError

SHAPE = Shape(2, 3, "short", ("gateway", "server"))


class FakeSide:
    """Answers all requests but those that it was told not to."""

    pid = None

    def __init__(self, name, kind, log, *, fails=False):
        self.facts = SideFacts(name, kind, "")
        self._log = log
        self._fails = fails

    def plan(self, shape, start, seconds, samples):
        """Plan ten requests."""
        return Plan(
            kind=shape.kind,
            start=start,
            warm_up=1,
            requests=10,
            inputs=shape.inputs,
            clients=shape.clients,
            seconds=seconds,
            samples=samples,
        )

    def run(self, plan):
        """Answer all requests but the fifth."""
        self._log.append((self.facts.name, plan.start))
        if self._fails:
            raise SideError("it died")
        answered = [number for number in range(10) if number != 4]
        samples = {0: [[1.0, 0.0]] * plan.inputs} if plan.samples else {}
        return Load(elapsed_s=2.0, answered=answered, latencies_ms=[1.0] * 9, failed=1, samples=samples)

    def close(self):
        """Do nothing."""


class FakeCounter:
    """Says that a text has ten tokens."""

    def count(self, kind, numbers):
        """Count."""
        return 10 * len(numbers)


def measured(*sides, rounds=3):
    """Measure a cell."""
    comparer = Comparer(
        sides, FakeCounter(), lambda texts: np.array([[1.0, 1.0]] * len(texts)), lambda _: None
    )
    return comparer.cell(SHAPE, rounds, 1.0)


def test_sides_take_turns_on_the_same_texts():
    """A B A B A B, both on the same texts, and on others in every round."""
    log = []
    measured(FakeSide("a", "gateway", log), FakeSide("b", "server", log))
    assert [name for name, _ in log] == ["a", "b"] * 3
    starts = [start for _, start in log]
    assert starts == [0, 0, 33, 33, 66, 66]


def test_only_the_kinds_of_a_shape_take_part():
    """A side whose kind the load does not name has no turn."""
    log = []
    cell = measured(FakeSide("a", "gateway", log), FakeSide("c", "library", log))
    assert {turn.side for turn in cell.turns} == {"a"}


def test_turns_tell_what_was_answered():
    """Inputs and tokens are those of answered requests; failures stand beside them."""
    (first, *_) = measured(FakeSide("a", "gateway", [])).turns
    assert (first.requests, first.inputs, first.tokens, first.failed) == (9, 27, 270, 1)
    assert first.p99_ms == 1.0


def test_a_side_that_fails_is_told_of_and_the_others_go_on():
    """A turn without any answer is a failure with its reason."""
    log = []
    cell = measured(FakeSide("a", "gateway", log, fails=True), FakeSide("b", "server", log), rounds=1)
    assert [(turn.failed, turn.errors) for turn in cell.turns] == [(1, ("it died",)), (1, ())]


def test_vectors_are_compared_with_the_reference():
    """The least cosine of the sampled vectors is kept by side."""
    cell = measured(FakeSide("a", "gateway", []))
    assert cell.cosines == {"a": pytest.approx(np.sqrt(0.5))}


def test_neighbouring_requests_are_counted_together():
    """The texts of answered requests are counted, the warm-up's and those of failed ones are not."""
    plan = FakeSide("a", "gateway", []).plan(SHAPE, 100, 1.0, 0)
    assert joined(plan, [0, 1, 2, 5]) == [range(103, 112), range(118, 121)]
