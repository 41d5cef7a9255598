"""The statistics: percentiles, medians of rounds, ratios of turns of the same round; how they are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from bench.results import Cell, Figures, Turn

NOTHING = "-"

METRICS: Mapping[str, Callable[[Turn], float | None]] = {
    "inputs/s": lambda turn: _quotient(turn.inputs, turn.elapsed_s),
    "tokens/s": lambda turn: _quotient(turn.tokens, turn.elapsed_s),
    "p50 ms": lambda turn: turn.p50_ms,
    "p95 ms": lambda turn: turn.p95_ms,
    "p99 ms": lambda turn: turn.p99_ms,
    "CPU s per 1000": lambda turn: _quotient(turn.cpu_s and 1000 * turn.cpu_s, turn.inputs),
    "peak RSS MB": lambda turn: turn.rss_peak_mb,
    "generator": lambda turn: turn.client_cpu_s / turn.elapsed_s if turn.elapsed_s else None,
}
"""The metrics of a turn; ``None`` where one was not measured, or nothing was answered."""


def _quotient(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least that share of the values do not exceed; ``None`` of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of the known values."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def turns_of(cell: Cell, contender: str) -> list[Turn]:
    """Return a contender's turns, by round."""
    return sorted((turn for turn in cell.turns if turn.contender == contender), key=lambda turn: turn.round)


def median_of(cell: Cell, contender: str, metric: str) -> float | None:
    """Return the median over the rounds of a contender's metric."""
    return median([METRICS[metric](turn) for turn in turns_of(cell, contender)])


def ratio(cell: Cell, above: str, below: str, metric: str) -> float | None:
    """Return the median over the rounds of the quotient of two contenders' metrics in the same round."""
    rounds = zip(turns_of(cell, above), turns_of(cell, below), strict=False)
    return median([_quotient(*map(METRICS[metric], turns)) for turns in rounds])


def figure(part: Figures | None, name: str) -> float | None:
    """Return the median of a figure, if it was measured."""
    return median(part.figures.get(name, [])) if part else None


def best_gflops(ceiling: Figures, dtype: str) -> float | None:
    """Return the rate of the library that multiplies the layers of BERT-base fastest."""
    names = [name for name in ceiling.figures if name.endswith(f", {dtype}, all, GFLOP/s")]
    return max((rate for name in names if (rate := figure(ceiling, name))), default=None)


def written(value: float | None, unit: str = "") -> str:
    """Write a value with the digits that mean something; ``cos`` is a cosine, ``%`` a share."""
    if value is None:
        return NOTHING
    if unit in ("cos", "%"):
        return f"{value:.5f}" if unit == "cos" else f"{100 * value:.0f} %"
    whole = abs(value) >= 100 or (not unit and value == round(value))
    return f"{value:,.{0 if whole else 1 if abs(value) >= 10 else 2}f} {unit}".strip()
