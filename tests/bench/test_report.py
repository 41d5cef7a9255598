"""From results to tables, plots and JSON."""

from __future__ import annotations

import msgspec
import pytest

from bench import report
from bench.goals import goals
from bench.results import Results, read_results, write_results
from bench.tables import figure, table, times
from tests.bench.samples import results


def test_figures_have_the_digits_that_mean_something():
    """Large figures have no decimals, small ones two, unknown ones none at all."""
    assert [figure(value) for value in (1234.5, 12.34, 1.234, None)] == ["1,234", "12.3", "1.23", "-"]
    assert times(3.0) == "3.00 x"
    assert figure(2.0, "s") == "2.00 s"


def test_a_table_stands_to_the_right_but_for_its_first_column():
    """A table is Markdown."""
    assert table(("a", "b"), [("c", "d")]) == "| a | b |\n| :-- | --: |\n| c | d |"


def test_goals_are_told_beside_what_was_measured():
    """Ratios, shares and figures stand beside what they mean; what was not measured is a dash."""
    found = {goal.what: (goal.goal, goal.measured, goal.reached) for goal in goals(results())}
    assert found["MiniLM against infinity over HTTP, 8 x 32 short"] == ("at least 6.00 x", "3.00 x", "no")
    assert found["MiniLM against infinity over HTTP, 8 x 8 mixed"] == ("at least 8.00 x", "-", "-")
    assert found["a model: share of the rate of bf16 matrix products"] == ("-", "50 % (torch, bf16)", "-")
    assert found["Warm start, from the command to the first vector"] == ("at most 1.50 s", "2.00 s", "no")
    assert found["BGE-M3's shape: right vectors of 1000"] == ("at least 1000", "1000", "yes")


def test_the_report_shows_ratios_failures_and_who_is_missing(tmp_path):
    """Ratios above 1 are good for the gateway; failures are counted with their reason."""
    text = report.write(results(), tmp_path)
    assert "| 8 x 32 short | infinity | 3.00 x | 1.00 x | 1.00 x | 3.00 x | 2.50 x |" in text
    assert "- 16 x 1 short, infinity, round 1: it died" in text
    assert "- another: not installed" in text
    assert (tmp_path / "RESULTS.md").read_text() == text


def test_every_plot_of_the_report_is_there(tmp_path):
    """The report shows the pictures that were drawn, and no other."""
    text = report.write(results(), tmp_path)
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == [
        "ceiling.png",
        "latency-gguf.png",
        "latency-minilm.png",
        "ratios-gguf.png",
        "ratios-minilm.png",
    ]
    assert all(f"](plots/{name})" in text for name in drawn)


@pytest.mark.parametrize("part", ["minilm", "gguf", "ceiling", "fake", "start", "large"])
def test_a_part_that_was_not_measured_is_left_out(part, tmp_path):
    """The report is made of what there is."""
    whole = results()
    without = msgspec.structs.replace(whole, **{part: None})
    alone = Results(machine=whole.machine, **{part: getattr(whole, part)})
    own = {goal.what for goal in goals(alone)}
    assert own == {goal.what for goal in goals(whole)} - {goal.what for goal in goals(without)}
    assert all(what in report.write(alone, tmp_path) for what in own)
    assert not any(f"| {what} |" in report.write(without, tmp_path) for what in own)


def test_results_are_kept(tmp_path):
    """What is written is what is read; where nothing is, nothing is read."""
    assert read_results(tmp_path / "results.json") is None
    write_results(tmp_path / "results.json", results())
    assert read_results(tmp_path / "results.json") == results()
