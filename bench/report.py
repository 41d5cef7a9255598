"""From results to ``RESULTS.md``: ratios first, what was measured in absolute figures after them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench import plots
from bench.figures import median
from bench.goals import goals
from bench.report_ceiling import ceiling_tables
from bench.report_comparison import absolute_table, ratio_table, sides_table
from bench.results import Comparison, FakeRate, Large, Machine, Results, WarmStart
from bench.tables import NOTHING, cosine, figure, table

HOW_TO_READ = """\
Every ratio compares two things that were measured in turn, A B A B, in one run on one machine, on the same
texts, no two of which are alike; it is the median over the rounds of the quotient of the same round. A
ratio is written so that **above 1 is good for the gateway**, unless a line says otherwise: its rate over
theirs, their latency, processor time or memory over its own. Ratios carry over to other machines far better
than absolute figures do.

A load is written `clients x inputs of a request`, and the texts: `short` is one sentence of 14 tokens on
average, `mixed` 1 to 16 of them, `long` exactly 256 tokens. The loop is closed: a client sends its next
request when the last is answered. A turn begins with a warm-up (one request of each client, at least 20 of
one input), sends requests for the stated seconds, or until its texts are used up, and ends with the last
answer; all of that time counts. In process there are no clients: an engine is given 512 `short`, 128
`mixed` or 32 `long` texts a call, or one where there is one client with one input. Tokens are counted with
the model's own tokenizer, special tokens included, the same for all.

Processor time is user and system time of a side's whole process tree. Memory is resident memory of the
tree, sampled ten times a second: a shorter peak is missed, and pages that processes share count for each.
Failed requests are counted, and are no part of a rate or latency; every answer is looked into after the
clock has stopped: the count, order, width and finiteness of its vectors. Cosines are those of a few vectors
of each load with sentence-transformers in fp32.
"""


def write(results: Results, folder: Path) -> str:
    """Write the report and its plots; return the report."""
    images = plots.draw(results, folder / "plots")
    text = "\n\n".join(part.strip() for part in parts(results, images)) + "\n"
    (folder / "RESULTS.md").write_text(text)
    return text


def parts(results: Results, images: list[Path]) -> Iterator[str]:
    """Yield the report's parts."""
    yield "# What was measured\n\nWritten by `make bench`; do not edit."
    yield f"## The machine\n\n{machine_table(results.machine)}"
    yield f"## How to read it\n\n{HOW_TO_READ}"
    yield "## Goals\n\n" + table(
        ("what", "goal", "measured", "reached"),
        [(goal.what, goal.goal, goal.measured, goal.reached) for goal in goals(results)],
    )
    for image in images:
        yield f"![{image.stem}](plots/{image.name})"
    compared = [comparison for comparison in (results.minilm, results.gguf) if comparison is not None]
    for comparison in compared:
        yield from comparison_parts(comparison)
    if results.ceiling is not None:
        yield from ceiling_tables(results.ceiling)
    one_offs = list(one_off_rows(results))
    if one_offs:
        yield "## Measured by themselves\n\n" + table(("what", "figure", "measured"), one_offs)
    for comparison in compared:
        yield f"## In absolute figures: {TITLES[comparison.group]}\n\n{absolute_table(comparison)}"


TITLES = {"minilm": "all-MiniLM-L6-v2", "gguf": "all-MiniLM-L6-v2 as a GGUF file in bf16"}


def comparison_parts(comparison: Comparison) -> Iterator[str]:
    """Yield what is compared, and the ratios."""
    yield f"## {TITLES[comparison.group]}"
    settings = comparison.settings
    yield f"Rounds: {settings.rounds}; seconds of a turn: {settings.seconds:g}; {settings.when}."
    yield sides_table(comparison)
    if comparison.left_out:
        yield "Left out:\n\n" + "\n".join(f"- {reason}" for reason in comparison.left_out)
    yield ratio_table(comparison)


def machine_table(machine: Machine) -> str:
    """Say where it was measured."""
    rows = [
        ("processor", f"{machine.processor}, {machine.cores} cores"),
        ("flags", " ".join(machine.flags) or "none that matter"),
        ("memory", figure(machine.memory_gb, "GB")),
        ("system", machine.system),
        ("load before", f"{machine.load_before:.2f}"),
        *machine.versions.items(),
    ]
    return table(("", ""), rows, words=True)


def one_off_rows(results: Results) -> Iterator[tuple[str, str, str]]:
    """Yield the figures that are compared with nothing."""
    if results.fake is not None:
        yield from fake_rows(results.fake)
    if results.start is not None:
        yield start_row(results.start)
    if results.large is not None:
        yield from large_rows(results.large)


def fake_rows(found: FakeRate) -> Iterator[tuple[str, str, str]]:
    """Tell of the gateway without a model."""
    where = "its process on one core, worker and generator on another" if found.pinned else "cores shared"
    what, measured = f"backend without a model, {found.clients} x 1 short, {where}", found.settings.when
    yield f"{what}: requests/s", figure(median(found.requests_per_s)), measured
    for name, values in (
        ("gateway", found.gateway_cpu_us),
        ("worker", found.worker_cpu_us),
        ("generator", found.client_cpu_us),
    ):
        yield f"processor time of the {name} for a request", figure(median(values), "µs"), measured
    yield "failed requests", str(found.failed), measured


def start_row(found: WarmStart) -> tuple[str, str, str]:
    """Tell of the start."""
    spread = f"{figure(median(found.seconds), 's')} ({min(found.seconds):.2f} to {max(found.seconds):.2f})"
    return f"warm start to the first vector, {len(found.seconds)} starts", spread, found.settings.when


def large_rows(found: Large) -> Iterator[tuple[str, str, str]]:
    """Tell of the large model."""
    measured = found.settings.when
    what = f"BGE-M3's shape ({found.runtime}, {found.dtype}), {found.texts} texts"
    yield f"{what}: right vectors, failed requests", f"{found.right}, {found.failed}", measured
    yield "time of a text", figure(1000 * found.elapsed_s / found.texts, "ms"), measured
    yield "tokens/s", figure(found.tokens / found.elapsed_s), measured
    yield "processor time of a text", figure(1000 * found.cpu_s / found.texts, "ms"), measured
    yield "resident memory, sampled peak of the start", figure(found.rss_loading_mb, "MB"), measured
    for name, peak, final in (
        ("resident memory", found.rss_peak_mb, found.rss_final_mb),
        ("proportional memory (PSS)", found.pss_peak_mb, found.pss_final_mb),
    ):
        yield f"{name}, sampled peak and end", f"{figure(peak, 'MB')}, {figure(final, 'MB')}", measured
    other = NOTHING if found.cosine_other is None else f"{found.cosine_other:.3f}"
    yield (
        "least cosine to fp32 (largest to another text's)",
        f"{cosine(found.cosine_min)} ({other})",
        measured,
    )
