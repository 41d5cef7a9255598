"""What the gateway is meant to reach on a processor with bf16, each beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import msgspec

from bench.ceiling import BERT_BASE
from bench.figures import Figure, inputs_per_s, median, p50_ms, ratio, rss_peak_mb
from bench.peers import LLAMA, LLAMA_TUNED
from bench.results import Ceiling, Cell, Comparison, FakeRate, Large, ModelRate, Results
from bench.tables import NOTHING, cosine, figure, percent, times


class Goal(msgspec.Struct, frozen=True):
    """One line: what is measured, what it is meant to be, what it is, and whether that is enough.

    What has no goal, or was not measured, is told by a dash.
    """

    what: str
    goal: str
    measured: str
    reached: str


def goals(results: Results) -> Iterator[Goal]:
    """Yield all goals of which something is known, the most telling first."""
    if results.minilm is not None:
        yield from minilm_goals(results.minilm)
    if results.gguf is not None:
        yield from gguf_goals(results.gguf)
    if results.ceiling is not None:
        yield from ceiling_goals(results.ceiling)
    if results.fake is not None:
        yield from fake_goals(results.fake)
    if results.start is not None:
        what = "Warm start, from the command to the first vector"
        yield judge(what, median(results.start.seconds), seconds, most=1.5)
    if results.large is not None:
        yield from large_goals(results.large)


def minilm_goals(found: Comparison) -> Iterator[Goal]:
    """Against sentence-transformers, infinity, and the backend itself."""
    library, infinity, engine = "sentence-transformers", "infinity", "backend"
    what = "MiniLM, default settings, against sentence-transformers in process"
    yield rate(found, "8 x 32 short", library, what, 4.5)
    yield rate(found, "8 x 32 short", infinity, "MiniLM against infinity over HTTP", 6.0)
    yield rate(found, "8 x 8 mixed", infinity, "MiniLM against infinity over HTTP", 8.0)
    yield rate(found, "16 x 1 short", infinity, "MiniLM against infinity over HTTP")
    for load in ("2 x 256 short", "8 x 8 mixed"):
        yield rate(found, load, engine, "MiniLM: share of the engine that arrives over HTTP", 0.85)
    what = "MiniLM, 1 x 1 short: p50 over HTTP as a multiple of the backend called in process"
    yield judge(what, of_cell(found, "1 x 1 short", engine, p50_ms), times, most=1.6)
    what = "MiniLM, 8 x 32 short: memory as a multiple of infinity's (lower is better)"
    yield judge(what, of_cell(found, "8 x 32 short", infinity, rss_peak_mb), times)
    what = "MiniLM: least cosine to fp32 of sampled vectors"
    yield judge(what, least_cosine(found), cosine, least=0.999)


def gguf_goals(found: Comparison) -> Iterator[Goal]:
    """Against llama-cpp-python's server, and the backend itself."""
    for load in ("2 x 256 short", "8 x 8 mixed"):
        yield rate(found, load, "backend", "GGUF bf16: share of the engine that arrives over HTTP", 0.9)
    for load in ("16 x 1 short", "2 x 256 short"):
        yield rate(found, load, LLAMA, "GGUF bf16 against llama-cpp-python's server", 3.0)
    for load in ("16 x 1 short", "2 x 256 short"):
        yield rate(found, load, LLAMA_TUNED, "GGUF bf16 against llama-cpp-python's server, tuned")
    what = "GGUF bf16: least cosine to fp32 of sampled vectors"
    yield judge(what, least_cosine(found), cosine, least=0.999)


def ceiling_goals(found: Ceiling) -> Iterator[Goal]:
    """Against the rate of matrix products."""
    for model in found.models:
        own = f"; {percent(share_of(found, model, model.dtype))} of the rate in its own dtype"
        more = f" ({model.runtime}, {model.dtype}{'' if model.dtype == 'bf16' else own})"
        base = model.model == BERT_BASE
        name = "BERT-base's shape" if base else model.model
        what = f"{name}: share of the rate of bf16 matrix products"
        yield judge(what, share_of(found, model, "bf16"), percent, least=0.7 if base else None, more=more)


def fake_goals(found: FakeRate) -> Iterator[Goal]:
    """Judge what the gateway itself takes."""
    what = "Backend without a model, 32 clients, one core: requests/s; processor time of the gateway"
    more = f"; {figure(median(found.gateway_cpu_us), 'µs')} a request"
    yield judge(what, median(found.requests_per_s), figure, least=5000, more=more)


def large_goals(found: Large) -> Iterator[Goal]:
    """Whether a large model works at all, how fast, and in how much memory."""
    what = f"BGE-M3's shape: right vectors of {found.texts}"
    yield judge(what, found.right, str, least=found.texts)
    what, more = "BGE-M3's shape: time of a text of 100 tokens", f" ({found.runtime}, {found.dtype})"
    yield judge(what, 1000 * found.elapsed_s / found.texts, milliseconds, most=100, more=more)
    pss = "" if found.pss_final_mb is None else f", {figure(found.pss_final_mb, 'MB')} PSS"
    more = f"; at the end {figure(found.rss_final_mb, 'MB')}{pss}"
    what = "BGE-M3's shape: most resident memory of all processes"
    yield judge(what, found.rss_peak_mb, megabytes, most=4000, more=more)
    yield judge(
        "BGE-M3's shape: least cosine to fp32 of sampled vectors", found.cosine_min, cosine, least=0.999
    )


def judge(
    what: str,
    value: float | None,
    write: Callable[[float], str],
    *,
    least: float | None = None,
    most: float | None = None,
    more: str = "",
) -> Goal:
    """Set a figure beside its goal, if it has one.

    Args:
        what: is measured.
        value: what came out.
        write: writes it, and the goal.
        least, most: the goal; at most one of them.
        more: what else is to be said of the figure.
    """
    measured = NOTHING if value is None else write(value) + more
    if least is not None:
        return Goal(what, f"at least {write(least)}", measured, known(value, lambda it: it >= least))
    if most is not None:
        return Goal(what, f"at most {write(most)}", measured, known(value, lambda it: it <= most))
    return Goal(what, NOTHING, measured, NOTHING)


def known(value: float | None, reached: Callable[[float], bool]) -> str:
    """Say whether a figure reaches its goal."""
    return NOTHING if value is None else "yes" if reached(value) else "no"


def seconds(value: float) -> str:
    """Write a time."""
    return figure(value, "s")


def milliseconds(value: float) -> str:
    """Write a time."""
    return figure(value, "ms")


def megabytes(value: float) -> str:
    """Write a size."""
    return figure(value, "MB")


def rate(found: Comparison, load: str, other: str, what: str, least: float | None = None) -> Goal:
    """Compare inputs a second with another side's."""
    return judge(f"{what}, {load}", of_cell(found, load, other, inputs_per_s), times, least=least)


def of_cell(comparison: Comparison, load: str, other: str, what: Figure) -> float | None:
    """Return the gateway's figure over another side's."""
    cell = cell_of(comparison, load)
    return None if cell is None else ratio(cell, "gateway", other, what)


def cell_of(comparison: Comparison, load: str) -> Cell | None:
    """Find a cell by its name."""
    return next((cell for cell in comparison.cells if cell.name == load), None)


def least_cosine(comparison: Comparison) -> float | None:
    """Return the least cosine of the gateway's vectors in any cell."""
    told = [cell.cosines["gateway"] for cell in comparison.cells if "gateway" in cell.cosines]
    return min(told, default=None)


def share_of(found: Ceiling, model: ModelRate, dtype: str) -> float | None:
    """Return what a model reaches of the best rate of products in a dtype."""
    best, reached = best_gflops(found, dtype), median(model.tokens_per_s)
    return reached * model.flops_per_token / 1e9 / best if best and reached else None


def best_gflops(found: Ceiling, dtype: str) -> float | None:
    """Return the rate of the engine that would be done first with the linear layers of BERT-base."""
    engines = {product.engine for product in found.products if product.dtype == dtype}
    rates = [layer_gflops(found, engine, dtype) for engine in engines]
    return max((rate for rate in rates if rate is not None), default=None)


def layer_gflops(found: Ceiling, engine: str, dtype: str) -> float | None:
    """Return an engine's rate over a layer of BERT-base, by the medians of the rounds.

    The layer has four products of the first shape and one of each other: as many operations of each shape,
    so that the rate of all is the harmonic mean.
    """
    known = [
        median(product.gflops)
        for product in found.products
        if (product.engine, product.dtype) == (engine, dtype)
    ]
    rates = [rate for rate in known if rate]
    return statistics.harmonic_mean(rates) if rates else None
