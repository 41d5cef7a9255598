"""The tables of a comparison: who took part, ratios, absolute figures."""

from __future__ import annotations

from bench.figures import (
    Figure,
    client_cpu_share,
    cpu_s_per_1000,
    inputs_per_s,
    of,
    p50_ms,
    p95_ms,
    p99_ms,
    ratio,
    rss_peak_mb,
    tokens_per_s,
    turns_of,
)
from bench.results import Cell, Comparison, SideFacts
from bench.tables import NOTHING, cosine, figure, percent, table, times

OURS = "gateway"
RATIO_HEAD = ("load", "gateway against", "rate", "p50", "p99", "processor time", "memory")


def sides_table(comparison: Comparison) -> str:
    """Say who took part."""
    return table(("side", "what it is"), [(side.name, side.how) for side in comparison.sides], words=True)


def ratio_table(comparison: Comparison) -> str:
    """Compare the gateway with each other side, load by load."""
    rows = [
        ratio_row(cell, side)
        for cell in comparison.cells
        for side in comparison.sides
        if side.kind != OURS and turns_of(cell, side.name)
    ]
    return table(RATIO_HEAD, rows)


def ratio_row(cell: Cell, side: SideFacts) -> tuple[str, ...]:
    """Compare the gateway with one side under one load."""

    def theirs_over_ours(what: Figure) -> str:
        return times(ratio(cell, side.name, OURS, what))

    # In process the latency is that of a call of many texts, which compares with nothing, but for one input.
    comparable = side.kind == "server" or cell.clients * cell.inputs == 1
    latencies = (p50_ms, p99_ms)
    return (
        cell.name,
        side.name,
        times(ratio(cell, OURS, side.name, inputs_per_s)),
        *(theirs_over_ours(what) if comparable else NOTHING for what in latencies),
        theirs_over_ours(cpu_s_per_1000),
        theirs_over_ours(rss_peak_mb),
    )


def absolute_table(comparison: Comparison) -> str:
    """Write down all medians."""
    head = (
        *("load", "side", "inputs/s", "least to most", "tokens/s", "p50 ms", "p95 ms", "p99 ms"),
        *("CPU s per 1000", "peak RSS MB", "failed", "wrong", "least cosine", "generator", "others idle"),
    )
    rows = [
        absolute_row(cell, side.name)
        for cell in comparison.cells
        for side in comparison.sides
        if turns_of(cell, side.name)
    ]
    notes = [
        f"- {cell.name}, {turn.side}, round {turn.round + 1}: {reason}"
        for cell in comparison.cells
        for turn in cell.turns
        for reason in turn.errors
    ]
    explained = (
        "`generator` and `others idle`: cores that the load generator, and all other sides, used meanwhile."
    )
    return "\n\n".join(
        [table(head, rows), explained, *(["Failures:\n\n" + "\n".join(notes)] if notes else [])]
    )


def absolute_row(cell: Cell, side: str) -> tuple[str, ...]:
    """Write one side's medians on one load."""
    turns = turns_of(cell, side)
    rates = [rate for rate in map(inputs_per_s, turns) if rate is not None]
    spread = f"{figure(min(rates))} to {figure(max(rates))}" if rates else NOTHING
    elapsed = sum(turn.elapsed_s for turn in turns)
    return (
        cell.name,
        side,
        figure(of(cell, side, inputs_per_s)),
        spread,
        *(figure(of(cell, side, what)) for what in (tokens_per_s, p50_ms, p95_ms, p99_ms, cpu_s_per_1000)),
        figure(of(cell, side, rss_peak_mb)),
        str(sum(turn.failed for turn in turns)),
        str(sum(turn.wrong for turn in turns)),
        cosine(cell.cosines.get(side)),
        percent(of(cell, side, client_cpu_share)),
        percent(sum(turn.idle_cpu_s for turn in turns) / elapsed if elapsed else None),
    )
