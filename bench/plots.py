"""Pictures of the ratios, latencies and ceilings: bars in groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import best_gflops, figure, median_of, ratio, written
from bench.results import Comparison, Figures, Results

mpl.use("agg")

Bars = Mapping[str, Mapping[str, float | None]]
"""By group, then by the name that the legend explains."""


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw all that is known; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, axes in _pictures(results):
        picture = axes.figure.get_figure(root=True)
        handles, _ = axes.get_legend_handles_labels()
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1)}  # over the picture, where it hides nothing
        axes.legend(handles=handles, ncols=len(handles), frameon=False, **place)
        picture.tight_layout()
        files.append(folder / f"{name}.png")
        picture.savefig(files[-1], dpi=110, metadata={"Software": None})
    return files


def _pictures(results: Results) -> Iterator[tuple[str, Axes]]:
    for group, comparison in (("minilm", results.minilm), ("gguf", results.gguf)):
        if comparison is not None:
            yield f"ratios-{group}", _ratios(comparison)
            yield f"latency-{group}", _latencies(comparison)
    if results.ceiling is not None:
        yield "ceiling", _ceiling(results.ceiling)


def _ratios(comparison: Comparison) -> Axes:
    names = [one.name for one in comparison.contenders if one.kind != "gateway"]
    cells = {cell.workload: cell for cell in comparison.cells}
    bars = {
        load: {name: ratio(cell, "gateway", name, "inputs/s") for name in names}
        for load, cell in cells.items()
    }
    axes = _draw_bars(bars, "x", "inputs/s of the gateway over the other's (above 1: the gateway is faster)")
    axes.axvline(1.0, color="black", linewidth=0.8)
    return axes


def _latencies(comparison: Comparison) -> Axes:
    names = [one.name for one in comparison.contenders if one.kind in ("gateway", "server")]
    bars, lines = (
        {cell.workload: {name: median_of(cell, name, metric) for name in names} for cell in comparison.cells}
        for metric in ("p50 ms", "p99 ms")
    )
    axes = _draw_bars(bars, "ms", "latency of a request, ms: median and 99th percentile", lines)
    axes.set_xscale("log")
    return axes


def _ceiling(ceiling: Figures) -> Axes:
    models = [name for name in ceiling.figures if name.endswith(", GFLOP/s") and name.count(",") == 1]
    bars = {name.partition(",")[0]: {"models": figure(ceiling, name)} for name in models}
    axes = _draw_bars(bars, "", "GFLOP/s")
    for dtype, style in (("fp32", ":"), ("bf16", "--")):
        if rate := best_gflops(ceiling, dtype):
            axes.axvline(rate, color="black", linestyle=style, label=f"best {dtype} matrix product")
    return axes


def _draw_bars(bars: Bars, unit: str, label: str, lines: Bars | None = None) -> Axes:
    """Draw bars with their values, and with a line from a bar to its value of ``lines``."""
    axes = Figure(figsize=(9.0, 1.6 + 0.75 * len(bars))).add_subplot()
    names = list(dict.fromkeys(name for group in bars.values() for name in group if group[name] is not None))
    for place, (group, values) in enumerate(bars.items()):
        known = {name: value for name, value in values.items() if value is not None}
        height = 0.8 / max(1, len(known))
        for number, (name, value) in enumerate(known.items()):
            at = place - 0.4 + height * (number + 0.5)
            end = (lines[group][name] if lines else None) or value
            axes.barh(at, value, 0.9 * height, color=f"C{names.index(name)}")
            axes.plot([value, end], [at, at], color="black", linewidth=0.8)
            axes.annotate(f" {written(value, unit)}", (end, at), va="center", fontsize=8)
    for number, name in enumerate(names):
        axes.plot([], [], color=f"C{number}", linewidth=8, label=name)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.margins(x=0.12)
    return axes
