"""The statistics: medians of rounds, percentiles of latencies, ratios of turns of the same round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from bench.results import Cell, Turn

Figure = Callable[[Turn], float | None]
"""A figure of a turn; ``None`` where it was not measured, or nothing was answered."""


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least that share of the values do not exceed; ``None`` of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of what is known; ``None`` if nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def inputs_per_s(turn: Turn) -> float | None:
    """Return the inputs answered a second."""
    return turn.inputs / turn.elapsed_s if turn.inputs else None


def tokens_per_s(turn: Turn) -> float | None:
    """Return the tokens answered a second."""
    return turn.tokens / turn.elapsed_s if turn.tokens else None


def p50_ms(turn: Turn) -> float | None:
    """Return the median latency of a request."""
    return turn.p50_ms


def p95_ms(turn: Turn) -> float | None:
    """Return the 95th percentile of a request's latency."""
    return turn.p95_ms


def p99_ms(turn: Turn) -> float | None:
    """Return the 99th percentile of a request's latency."""
    return turn.p99_ms


def cpu_s_per_1000(turn: Turn) -> float | None:
    """Return the side's processor time for 1000 inputs."""
    return 1000 * turn.cpu_s / turn.inputs if turn.inputs and turn.cpu_s is not None else None


def rss_peak_mb(turn: Turn) -> float | None:
    """Return the side's resident memory."""
    return turn.rss_peak_mb


def client_cpu_share(turn: Turn) -> float | None:
    """Return the cores that the load generator used."""
    return turn.client_cpu_s / turn.elapsed_s if turn.elapsed_s else None


def turns_of(cell: Cell, side: str) -> list[Turn]:
    """Return a side's turns, by round."""
    return sorted((turn for turn in cell.turns if turn.side == side), key=lambda turn: turn.round)


def of(cell: Cell, side: str, figure: Figure) -> float | None:
    """Return the median over the rounds of a side's figure."""
    return median([figure(turn) for turn in turns_of(cell, side)])


def ratio(cell: Cell, above: str, below: str, figure: Figure) -> float | None:
    """Return the median over the rounds of the quotient of two sides' figures in the same round."""
    quotients = []
    for one, other in zip(turns_of(cell, above), turns_of(cell, below), strict=False):
        over, under = figure(one), figure(other)
        if over is not None and under:
            quotients.append(over / under)
    return median(quotients)
