"""Medians, percentiles and ratios."""

from __future__ import annotations

import pytest

from bench.figures import cpu_s_per_1000, inputs_per_s, median, of, p50_ms, percentile, ratio
from tests.bench.samples import cell, turn


def test_a_percentile_is_a_value_that_was_measured():
    """The smallest value that the share of values does not exceed; of nothing there is none."""
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.95, 1.0)] == [1.0, 3.0, 5.0, 5.0]
    assert percentile([], 0.5) is None


def test_a_median_leaves_out_what_is_not_known():
    """What was not measured counts neither as nought nor at all."""
    assert median([None, 3.0, 1.0, None, 2.0]) == 2.0
    assert median([None]) is None


def test_a_ratio_compares_turns_of_the_same_round():
    """Drift that hits both sides leaves the ratio alone."""
    drifting = cell(
        turn("a", 0, inputs=100), turn("b", 0, inputs=50), turn("a", 1, inputs=10), turn("b", 1, inputs=5)
    )
    assert ratio(drifting, "a", "b", inputs_per_s) == 2.0
    assert of(drifting, "a", inputs_per_s) == 55.0


def test_a_round_without_an_answer_has_no_ratio():
    """A turn in which everything failed takes no part in ratios, and rates are those of the others."""
    broken = cell(turn("a", 0), turn("b", 0, inputs=0), turn("a", 1), turn("b", 1, inputs=50))
    assert ratio(broken, "a", "b", inputs_per_s) == 2.0
    assert ratio(cell(turn("a", 0)), "a", "b", p50_ms) is None


def test_processor_time_is_told_for_a_thousand_inputs():
    """100 inputs of half a second are five seconds a thousand; of an unknown process nothing is known."""
    assert cpu_s_per_1000(turn("a", 0, inputs=100, cpu_s=0.5)) == pytest.approx(5.0)
    assert cpu_s_per_1000(turn("a", 0, cpu_s=None)) is None
