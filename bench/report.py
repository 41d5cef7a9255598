"""From results to ``RESULTS.md``: ratios first, absolute figures after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import plots
from bench.goals import goal_rows
from bench.metrics import METRICS, NOTHING, median, median_of, ratio, turns_of, written
from bench.results import Cell, Comparison, Figures, Results

HOW_TO_READ = Path(__file__).with_name("how_to_read.md")
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
    "`generator` and `others idle`: cores that the load generator, and all other contenders, used meanwhile."
)


def write(results: Results, folder: Path) -> str:
    """Write the report and its plots; return the report."""
    images = plots.draw(results, folder / "plots")
    text = "\n\n".join(part.strip() for part in _parts(results, images)) + "\n"
    (folder / "RESULTS.md").write_text(text)
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """Return a table in Markdown; all columns but the first are aligned right, unless they hold words."""
    rule = [":--", *(":--" if words else "--:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _parts(results: Results, images: list[Path]) -> Iterator[str]:
    yield "# What was measured\n\nWritten by `make bench`; do not edit."
    yield "## The machine\n\n" + table(("", ""), list(results.machine.items()), words=True)
    yield f"## How to read it\n\n{HOW_TO_READ.read_text()}"
    yield "## Goals\n\n" + table(("what", "goal", "measured", "reached"), list(goal_rows(results)))
    yield from (f"![{image.stem}](plots/{image.name})" for image in images)
    comparisons = {title: c for group, title in TITLES.items() if (c := getattr(results, group))}
    for title, comparison in comparisons.items():
        yield f"## {title}"
        settings = comparison.settings
        yield f"Rounds: {settings.rounds}; seconds of a turn: {settings.seconds:g}; {settings.when}."
        how = [(contender.name, contender.how) for contender in comparison.contenders]
        yield table(("contender", "what it is"), how, words=True)
        if comparison.left_out:
            yield _list("Left out", comparison.left_out)
        yield table(RATIOS, list(_ratio_rows(comparison)))
    for part, title in FIGURES.items():
        if figures := getattr(results, part):
            yield f"## {title}\n\n{_figures(figures)}"
            if figures.left_out:
                yield _list("Left out", figures.left_out)
    for title, comparison in comparisons.items():
        head = (*ABSOLUTE, "least cosine", "generator", "others idle")
        yield f"## In absolute figures: {title}"
        yield table(head, [_absolute_row(cell, name) for cell, name in _takers(comparison)])
        yield EXPLAINED
        if failures := list(_failures(comparison)):
            yield _list("Failures", failures)


def _list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {line}" for line in lines)])


def _figures(part: Figures) -> str:
    rows = []
    for name, values in part.figures.items():
        unit = "cos" if "cosine" in name else ""
        spread = (
            f"{written(min(values), unit)} to {written(max(values), unit)}" if len(values) > 1 else NOTHING
        )
        rows.append((name, written(median(values), unit), spread))
    return (
        f"{part.about}\nMeasured {part.settings.when}.\n\n{table(('what', 'figure', 'least to most'), rows)}"
    )


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


def _failures(comparison: Comparison) -> Iterator[str]:
    for cell in comparison.cells:
        for turn in cell.turns:
            yield from (
                f"{cell.workload}, {turn.contender}, round {turn.round + 1}: {e}" for e in turn.errors
            )
