"""From the command line and results to statistics, tables, plots and JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.__main__ import MEASURE
from bench.metrics import METRICS, median, median_of, percentile, ratio, written
from bench.models import flops_per_token
from bench.options import PARTS, parse
from bench.report import goal_rows, write
from bench.results import (
    Cell,
    Comparison,
    ContenderInfo,
    Figures,
    Results,
    Settings,
    Turn,
    read_results,
    write_results,
)

SETTINGS = Settings(seconds=1.0, rounds=2, measured="2026-01-01 00:00 UTC")
STORED = Path(__file__).parents[2] / "bench" / "results.json"


def turn(contender, number, **others):
    """Return a turn of one second with 100 inputs, unless told otherwise."""
    figures = {
        "elapsed_s": 1.0,
        "requests": 10,
        "inputs": 100,
        "tokens": 1400,
        "p50_ms": 10.0,
        "p99_ms": 20.0,
    }
    return Turn(contender=contender, round=number, **{**figures, **others})


def comparison(peer):
    """Return a comparison in which the gateway is three times as fast as its peer."""
    turns = [
        turn(name, number, inputs=inputs, rss_peak_mb=memory, cpu_s=1.0)
        for number in range(2)
        for name, inputs, memory in (("gateway", 300, 200.0), (peer, 100, 500.0))
    ]
    broken = turn(peer, 0, inputs=0, requests=0, p50_ms=None, p99_ms=None, failed=3, errors=["it died"])
    contenders = [ContenderInfo("gateway", "gateway", "this"), ContenderInfo(peer, "server", "that")]
    cells = [
        Cell("8 x 32 short", turns, {"gateway": 0.99995}),
        Cell("16 x 1 short", [turn("gateway", 0), broken], {}),
    ]
    return Comparison(SETTINGS, contenders, cells, ["another: not installed"])


def results():
    """Return results with something in every part."""
    ceiling = {"torch, bf16, all, GFLOP/s": [900.0, 1100.0], "all-MiniLM-L6-v2, GFLOP/s": [500.0]}
    bulk = {"8 x 32: processor time of the gateway for one input, µs": [20.0, 9.0, 8.0]}
    return Results(
        machine={"processor": "a processor", "torch": "1"},
        minilm=comparison("infinity"),
        gguf=comparison("llama-cpp-python"),
        ceiling=Figures(SETTINGS, "Products.", ceiling, ["openvino: not installed"]),
        fake=Figures(SETTINGS, "Nothing.", bulk),
        start=Figures(SETTINGS, "A start.", {"warm start, s": [1.0, 3.0, 2.0]}),
        large=Figures(SETTINGS, "A model.", {"right vectors": [1000], "least cosine to fp32": [0.99947]}),
    )


def test_the_command_line_chooses_parts():
    """All parts are measured unless some are named; ``report`` measures nothing; a trial is quicker."""
    assert list(MEASURE) == list(PARTS) == parse([]).parts == parse(["all"]).parts
    assert parse(["fake", "start"]).parts == ["fake", "start"]
    assert parse(["report"]).parts == []
    assert parse([]).rounds >= 3
    assert (parse(["--quick", "--seconds", "2"]).rounds, parse(["--quick", "--seconds", "2"]).seconds) == (
        1,
        2,
    )
    with pytest.raises(SystemExit):
        parse(["nothing"])


def test_other_servers_are_named_in_turn():
    """The first model and process belong to the first server; gateways of other checkouts have commands."""
    arguments = ["--peer", "a=http://h:1/v1", "--peer", "b=http://h:2", "--peer-model", "m", "--pid", "7"]
    options = parse([*arguments, "--gateway-command", "old=env A='b c' python -m g"])
    assert options.url_peers("minilm") == [("a", "http://h:1/v1", "m", 7), ("b", "http://h:2", "model", None)]
    assert options.url_peers("gguf") == []
    assert list(options.gateways) == ["gateway", "old"]
    assert options.gateways["old"] == ["env", "A=b c", "python", "-m", "g"]
    with pytest.raises(SystemExit):
        parse(["--peer", "http://h:1"])


def test_percentiles_and_medians_are_of_known_values():
    """A percentile was measured; of nothing there is none; unknown values count not at all."""
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.95, 1.0)] == [1.0, 3.0, 5.0, 5.0]
    assert percentile([], 0.5) is None
    assert median([None, 3.0, 1.0, None, 2.0]) == 2.0
    assert median([None]) is None


def test_a_ratio_compares_turns_of_the_same_round():
    """Drift leaves the ratio alone, and a round in which everything failed takes no part in it."""
    turns = [turn("a", 0), turn("b", 0, inputs=50), turn("a", 1, inputs=10), turn("b", 1, inputs=5)]
    drifting = Cell("", [*turns, turn("a", 2), turn("b", 2, inputs=0)], {})
    assert ratio(drifting, "a", "b", "inputs/s") == 2.0
    assert median_of(drifting, "a", "inputs/s") == 100.0
    assert ratio(drifting, "a", "b", "peak RSS MB") is None


def test_values_have_the_digits_that_mean_something():
    """Large values have no decimals, small ones two, unknown ones none; processor time is for 1000 inputs."""
    assert [written(value) for value in (1234.5, 12.34, 1.234, None, 0)] == [
        "1,234",
        "12.3",
        "1.23",
        "-",
        "0",
    ]
    assert [written(0.99995, unit) for unit in ("x", "%", "cos")] == ["1.00 x", "100 %", "0.99995"]
    assert METRICS["CPU s per 1000"](turn("a", 0, cpu_s=0.5)) == pytest.approx(5.0)
    assert METRICS["CPU s per 1000"](turn("a", 0)) is None


def test_goals_stand_beside_what_was_measured():
    """Ratios, shares and figures are judged; what was not measured is a dash."""
    rows = {what: row for what, *row in goal_rows(results())}
    assert rows["MiniLM against infinity over HTTP, 8 x 32 short"] == ["at least 6.00 x", "3.00 x", "no"]
    assert rows["MiniLM against infinity over HTTP, 8 x 8 mixed"] == ["at least 8.00 x", "-", "-"]
    assert rows["all-MiniLM-L6-v2: share of the rate of bf16 matrix products"] == ["-", "50 %", "-"]
    assert rows["Warm start, from the command to the first vector"] == ["at most 1.50 s", "2.00 s", "no"]
    assert rows["BGE-M3's shape: right vectors of 1000"] == ["at least 1,000", "1,000", "yes"]
    bulk = "Backend without a model, 8 x 32: processor time of the gateway for one input"
    assert rows[bulk] == ["at most 10.0 µs", "9.00 µs", "yes"]


def test_the_report_shows_ratios_failures_and_plots(tmp_path):
    """Ratios above 1 are good for the gateway; failures and what was left out have their reasons."""
    text = write(results(), tmp_path)
    assert "| 8 x 32 short | infinity | 3.00 x | 1.00 x | 1.00 x | 3.00 x | 2.50 x |" in text
    assert "- 16 x 1 short, infinity, round 1: it died" in text
    assert "- another: not installed" in text
    assert "- openvino: not installed" in text
    assert (tmp_path / "RESULTS.md").read_text() == text
    drawn = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert drawn == {"ceiling", "latency-gguf", "latency-minilm", "ratios-gguf", "ratios-minilm"}
    assert all(f"](plots/{name}.png)" in text for name in drawn)


def test_a_part_that_was_not_measured_is_left_out():
    """The goals of a part are shown if it was measured, and only then."""
    whole = results()
    every = {what for what, *_ in goal_rows(whole)}
    for part in PARTS:
        without = {what for what, *_ in goal_rows(msgspec.structs.replace(whole, **{part: None}))}
        alone = {what for what, *_ in goal_rows(Results(machine={}, **{part: getattr(whole, part)}))}
        assert alone
        assert alone == every - without


def test_results_are_stored(tmp_path):
    """Results are read as they were written, the committed ones too; without a file there are none."""
    assert read_results(tmp_path / "results.json") is None
    write_results(tmp_path / "results.json", results())
    assert read_results(tmp_path / "results.json") == results()
    assert read_results(STORED).minilm is not None


def test_operations_of_an_encoder_are_counted():
    """BERT-base: 85 million parameters in linear layers, twice, and attention over 128 tokens."""
    assert flops_per_token(768, 3072, 12, 128) == 2 * 84_934_656 + 4 * 12 * 768 * 128
