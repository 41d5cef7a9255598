"""From results to ``RESULTS.md``: goals and ratios first, absolute figures after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench import plots
from bench.metrics import METRICS, NOTHING, best_gflops, figure, median, median_of, ratio, turns_of, written
from bench.results import Cell, Comparison, Figures, Results

FOLDER = Path(__file__).parent
TITLES = {"minilm": "all-MiniLM-L6-v2", "gguf": "all-MiniLM-L6-v2 as a GGUF file in bf16"}
FIGURES = {
    "ceiling": "The machine's own ceiling",
    "fake": "What the gateway itself takes",
    "start": "A warm start",
    "large": "A large model",
}
RATIOS = ("load", "gateway against", "rate", "p50", "p99", "processor time", "memory")
ABSOLUTE = ("load", "contender", "inputs/s", "least to most", *list(METRICS)[1:-1], "failed", "wrong")
EXPLAINED = (
    "`generator` and `others idle`: cores used meanwhile by the load generator and the other contenders."
)


class Goal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the table; ``goals.toml`` says what its keys mean."""

    part: str
    what: str
    ratio: tuple[str, str, str] | None = None
    cosine: bool = False
    share: str = ""
    figure: str = ""
    unit: str = ""
    least: float | None = None
    most: float | None = None

    def row(self, part: Comparison | Figures) -> tuple[str, ...]:
        """Return what is measured, the goal, the value and whether that is enough; a dash if not known."""
        value = self._value(part)
        goal = reached = NOTHING
        for word, limit, sign in (("least", self.least, 1), ("most", self.most, -1)):
            if limit is not None:
                goal = f"at {word} {written(limit, self.unit)}"
                reached = NOTHING if value is None else "yes" if sign * value >= sign * limit else "no"
        return self.what, goal, written(value, self.unit), reached

    def _value(self, part: Comparison | Figures) -> float | None:
        if isinstance(part, Figures):
            value = figure(part, self.figure or self.share)
            best = best_gflops(part, "bf16") if self.share else 1.0
            return value / best if value is not None and best else None
        if self.ratio:
            load, other, metric = self.ratio
            cell = next((cell for cell in part.cells if cell.workload == load), None)
            return ratio(cell, "gateway", other, metric) if cell else None
        cosines = [cell.cosines["gateway"] for cell in part.cells if "gateway" in cell.cosines]
        return min(cosines, default=None)


def goal_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """Yield the goals of all parts that were measured."""
    content = (FOLDER / "goals.toml").read_bytes()
    for goal in msgspec.toml.decode(content, type=dict[str, list[Goal]])["goals"]:
        part = getattr(results, goal.part)
        if part is not None:
            yield goal.row(part)


def write(results: Results, folder: Path) -> str:
    """Write the report and its plots; return the report."""
    images = plots.draw(results, folder / "plots")
    text = "\n\n".join(part.strip() for part in _parts(results, images)) + "\n"
    (folder / "RESULTS.md").write_text(text)
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    rule = [":--", *(":--" if words else "--:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _parts(results: Results, images: list[Path]) -> Iterator[str]:
    yield "# What was measured\n\nWritten by `make bench`; do not edit."
    yield "## The machine\n\n" + _table(("", ""), list(results.machine.items()), words=True)
    yield f"## How to read it\n\n{(FOLDER / 'how_to_read.md').read_text()}"
    yield "## Goals\n\n" + _table(("what", "goal", "measured", "reached"), list(goal_rows(results)))
    yield from (f"![{image.stem}](plots/{image.name})" for image in images)
    comparisons = {title: c for group, title in TITLES.items() if (c := getattr(results, group))}
    for title, comparison in comparisons.items():
        yield f"## {title}"
        settings = comparison.settings
        yield f"Rounds: {settings.rounds}; seconds of a turn: {settings.seconds:g}; {settings.when}."
        how = [(contender.name, contender.how) for contender in comparison.contenders]
        yield _table(("contender", "what it is"), how, words=True)
        yield from _list("Left out", comparison.left_out)
        yield _table(RATIOS, list(_ratio_rows(comparison)))
    for part, title in FIGURES.items():
        if figures := getattr(results, part):
            yield f"## {title}\n\n{_figures(figures)}"
            yield from _list("Left out", figures.left_out)
    for title, comparison in comparisons.items():
        head = (*ABSOLUTE, "least cosine", "generator", "others idle")
        yield f"## In absolute figures: {title}"
        yield _table(head, [_absolute_row(cell, name) for cell, name in _takers(comparison)])
        yield EXPLAINED
        turns = [(cell.workload, turn) for cell in comparison.cells for turn in cell.turns]
        yield from _list(
            "Failures",
            [
                f"{load}, {t.contender}, round {t.round + 1}: {error}"
                for load, t in turns
                for error in t.errors
            ],
        )


def _list(title: str, lines: Sequence[str]) -> list[str]:
    return ["\n".join([f"{title}:", "", *(f"- {line}" for line in lines)])] if lines else []


def _figures(part: Figures) -> str:
    rows = []
    for name, values in part.figures.items():
        unit = "cos" if "cosine" in name else ""
        least, most = written(min(values), unit), written(max(values), unit)
        rows.append((name, written(median(values), unit), f"{least} to {most}"))
    table = _table(("what", "figure", "least to most"), rows)
    return f"{part.about}\nMeasured {part.settings.when}.\n\n{table}"


def _takers(comparison: Comparison) -> Iterator[tuple[Cell, str]]:
    for cell in comparison.cells:
        yield from ((cell, one.name) for one in comparison.contenders if turns_of(cell, one.name))


def _ratio_rows(comparison: Comparison) -> Iterator[Sequence[str]]:
    kinds = {contender.name: contender.kind for contender in comparison.contenders}
    for cell, name in _takers(comparison):
        if name != "gateway":
            # In process a latency is that of a call of many texts, which compares with nothing.
            comparable = kinds[name] == "server" or cell.workload.startswith("1 x 1 ")
            metrics = ("p50 ms", "p99 ms", "CPU s per 1000", "peak RSS MB")
            theirs = [written(ratio(cell, name, "gateway", metric), "x") for metric in metrics]
            if not comparable:
                theirs[:2] = [NOTHING, NOTHING]
            yield cell.workload, name, written(ratio(cell, "gateway", name, "inputs/s"), "x"), *theirs


def _absolute_row(cell: Cell, name: str) -> Sequence[str]:
    turns = turns_of(cell, name)
    rates = [rate for rate in map(METRICS["inputs/s"], turns) if rate is not None]
    elapsed = sum(turn.elapsed_s for turn in turns)
    return (
        cell.workload,
        name,
        written(median(rates)),
        f"{written(min(rates))} to {written(max(rates))}" if rates else NOTHING,
        *(written(median_of(cell, name, metric)) for metric in list(METRICS)[1:-1]),
        str(sum(turn.failed for turn in turns)),
        str(sum(turn.wrong for turn in turns)),
        written(cell.cosines.get(name), "cos"),
        written(median_of(cell, name, "generator"), "%"),
        written(sum(turn.idle_cpu_s for turn in turns) / elapsed if elapsed else None, "%"),
    )


def _failures(cell: Cell) -> list[str]:
    name = "{0}, {1.contender}, round {2}: {3}".format
    return [name(cell.workload, turn, turn.round + 1, error) for turn in cell.turns for error in turn.errors]
