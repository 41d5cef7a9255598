"""Pictures of the ratios, latencies and ceilings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.patches import Patch

from bench.figures import inputs_per_s, median, of, p50_ms, p99_ms, ratio, turns_of
from bench.goals import best_gflops
from bench.results import Ceiling, Comparison, Results
from bench.tables import figure, times

mpl.use("agg")
DPI = 110
WIDTH_IN = 9.0


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw all that is known; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, picture in pictures(results):
        picture.tight_layout()
        picture.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
        files.append(folder / f"{name}.png")
    return files


def pictures(results: Results) -> Iterator[tuple[str, Picture]]:
    """Yield pictures by name."""
    for comparison in (results.minilm, results.gguf):
        if comparison is not None and comparison.cells:
            yield f"ratios-{comparison.group}", ratios(comparison)
            yield f"latency-{comparison.group}", latencies(comparison)
    if results.ceiling is not None and results.ceiling.models:
        yield "ceiling", shares(results.ceiling)


def ratios(comparison: Comparison) -> Picture:
    """Bars of the gateway's rate over each other side's, load by load."""
    picture, axes = new(len(comparison.cells))
    names = [side.name for side in comparison.sides if side.kind != "gateway"]
    for place, cell in enumerate(comparison.cells):
        others = [name for name in names if turns_of(cell, name)]
        for number, other in enumerate(others):
            value = ratio(cell, "gateway", other, inputs_per_s)
            if value is not None:
                slot = Slot(place, number, len(others))
                bar(axes, slot, value, color_of(comparison, other), times(value))
    axes.axvline(1.0, color="black", linewidth=0.8)
    label = "inputs/s of the gateway over inputs/s of the other (above 1: the gateway is faster)"
    finish(axes, comparison, names, label)
    return picture


def latencies(comparison: Comparison) -> Picture:
    """Bars of the median latency over HTTP, with a line to the 99th percentile."""
    picture, axes = new(len(comparison.cells))
    names = [side.name for side in comparison.sides if side.kind in ("gateway", "server")]
    for place, cell in enumerate(comparison.cells):
        for number, name in enumerate(names):
            middle, most = of(cell, name, p50_ms), of(cell, name, p99_ms)
            if middle is not None and most is not None:
                slot = Slot(place, number, len(names))
                bar(axes, slot, middle, color_of(comparison, name), "")
                axes.plot([middle, most], [slot.middle, slot.middle], color="black", linewidth=0.8)
                beside(axes, most, slot, figure(middle, "ms"))
    axes.set_xscale("log")
    finish(axes, comparison, names, "latency of a request, ms: median, and a line to the 99th percentile")
    return picture


def shares(found: Ceiling) -> Picture:
    """Bars of what models reach, with lines at the rates of matrix products."""
    picture, axes = new(len(found.models))
    for place, model in enumerate(found.models):
        reached = (median(model.tokens_per_s) or 0.0) * model.flops_per_token / 1e9
        bar(axes, Slot(place), reached, "C0", f"{reached:.0f}")
    for dtype, style in (("fp32", ":"), ("bf16", "--")):
        if rate := best_gflops(found, dtype):
            axes.axvline(rate, color="black", linestyle=style, label=f"best {dtype} matrix product")
    axes.set_yticks(range(len(found.models)), [f"{m.model}\n{m.runtime}, {m.dtype}" for m in found.models])
    axes.invert_yaxis()
    axes.set_xlabel("GFLOP/s")
    above(axes, handles=axes.get_legend_handles_labels()[0])
    return picture


def new(places: int) -> tuple[Picture, Axes]:
    """Return a picture with room for so many loads."""
    picture = Picture(figsize=(WIDTH_IN, 1.6 + 0.75 * places))
    return picture, picture.add_subplot()


class Slot(NamedTuple):
    """Where a bar goes: the how many-eth of how many bars of a place."""

    place: int
    number: int = 0
    of_all: int = 1

    @property
    def height(self) -> float:
        """How high a bar is."""
        return 0.8 / self.of_all

    @property
    def middle(self) -> float:
        """Where the bar's middle is."""
        return self.place - 0.4 + self.height * (self.number + 0.5)


def bar(axes: Axes, slot: Slot, value: float, color: str, label: str) -> None:
    """Draw a bar and write beside it."""
    axes.barh(slot.middle, value, 0.9 * slot.height, color=color)
    beside(axes, value, slot, label)


def beside(axes: Axes, value: float, slot: Slot, label: str) -> None:
    """Write to the right of a value."""
    points = (3, 0)
    axes.annotate(
        label,
        (value, slot.middle),
        points,
        textcoords="offset points",
        verticalalignment="center",
        fontsize=8,
    )


def finish(axes: Axes, comparison: Comparison, names: Sequence[str], label: str) -> None:
    """Name the places, and the sides by their colours."""
    axes.set_yticks(range(len(comparison.cells)), [cell.name for cell in comparison.cells])
    axes.invert_yaxis()
    axes.set_xlabel(label)
    handles = [Patch(color=color_of(comparison, name), label=name) for name in names]
    axes.margins(x=0.12)
    above(axes, handles=handles)


def above(axes: Axes, handles: Sequence[Artist]) -> None:
    """Put the legend over the picture, where it hides nothing."""
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), frameon=False)


def color_of(comparison: Comparison, name: str) -> str:
    """Return a side's colour."""
    return f"C{[side.name for side in comparison.sides].index(name)}"
