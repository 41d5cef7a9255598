"""The goals of ``goals.toml``, each beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.metrics import NOTHING, best_gflops, figure, ratio, written
from bench.results import Comparison, Figures, Results

PATH = Path(__file__).with_name("goals.toml")
Row = tuple[str, str, str, str]


class Goal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the table; the file says what its keys mean."""

    part: str
    what: str
    ratio: tuple[str, str, str] | None = None
    cosine: bool = False
    share: str = ""
    figure: str = ""
    unit: str = ""
    least: float | None = None
    most: float | None = None

    def row(self, part: Comparison | Figures) -> Row:
        """Return what is measured, the goal, the value and whether that is enough; a dash if not known."""
        value = self._value(part)
        limit = self.most if self.least is None else self.least
        if limit is None:
            return self.what, NOTHING, written(value, self.unit), NOTHING
        goal = f"{'at most' if self.least is None else 'at least'} {written(limit, self.unit)}"
        if value is None:
            return self.what, goal, NOTHING, NOTHING
        reached = value <= limit if self.least is None else value >= limit
        return self.what, goal, written(value, self.unit), "yes" if reached else "no"

    def _value(self, part: Comparison | Figures) -> float | None:
        if isinstance(part, Figures):
            value = figure(part, self.figure or self.share)
            best = best_gflops(part, "bf16") if self.share else 1.0
            return value / best if value is not None and best else None
        if self.ratio:
            load, other, metric = self.ratio
            cell = next((cell for cell in part.cells if cell.workload == load), None)
            return ratio(cell, "gateway", other, metric) if cell else None
        return min(
            (cell.cosines["gateway"] for cell in part.cells if "gateway" in cell.cosines), default=None
        )


def goal_rows(results: Results) -> Iterator[Row]:
    """Yield the goals of all parts that were measured."""
    for goal in msgspec.toml.decode(PATH.read_bytes(), type=dict[str, list[Goal]])["goals"]:
        part = getattr(results, goal.part)
        if part is not None:
            yield goal.row(part)
