"""What the gateway is meant to reach, each beside what was measured, as plain data."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import msgspec

from bench.ceiling import BERT_BASE
from bench.figures import Figure, inputs_per_s, median, p50_ms, ratio, rss_peak_mb
from bench.peers import LLAMA, LLAMA_TUNED
from bench.results import Ceiling, Cell, Comparison, Large, ModelRate, Results
from bench.tables import cosine, figure, percent, times


class Goal(msgspec.Struct, frozen=True):
    """One line: what is compared, and what came out."""

    what: str
    measured: str


def goals(results: Results) -> Iterator[Goal]:
    """Yield all goals of which something is known, the most telling first."""
    if results.minilm is not None:
        yield from minilm_goals(results.minilm)
    if results.gguf is not None:
        yield from gguf_goals(results.gguf)
    if results.ceiling is not None:
        yield from ceiling_goals(results.ceiling)
    if results.fake is not None:
        rate, own = median(results.fake.requests_per_s), median(results.fake.gateway_cpu_us)
        what = "Backend without a model, 32 clients, one core: requests/s; processor time of the gateway"
        yield Goal(what, f"{figure(rate)}; {figure(own, 'µs')} a request")
    if results.start is not None:
        yield Goal(
            "Warm start, from the command to the first vector", figure(median(results.start.seconds), "s")
        )
    if results.large is not None:
        yield from large_goals(results.large)


def minilm_goals(comparison: Comparison) -> Iterator[Goal]:
    """Against sentence-transformers, infinity, and the backend itself."""
    library, infinity, engine = "sentence-transformers", "infinity", "backend"
    yield rate(
        comparison,
        "8 x 32 short",
        library,
        "MiniLM, default settings, against sentence-transformers in process",
    )
    yield rate(comparison, "8 x 32 short", infinity, "MiniLM against infinity over HTTP")
    yield rate(comparison, "8 x 8 mixed", infinity, "MiniLM against infinity over HTTP")
    yield rate(comparison, "16 x 1 short", infinity, "MiniLM against infinity over HTTP")
    yield rate(comparison, "2 x 256 short", engine, "MiniLM: share of the engine that arrives over HTTP")
    yield rate(comparison, "8 x 8 mixed", engine, "MiniLM: share of the engine that arrives over HTTP")
    yield Goal(
        "MiniLM, 1 x 1 short: p50 over HTTP as a multiple of the backend called in process (lower is better)",
        times(of_cell(comparison, "1 x 1 short", engine, p50_ms)),
    )
    yield Goal(
        "MiniLM, 8 x 32 short: memory as a multiple of infinity's (lower is better)",
        times(of_cell(comparison, "8 x 32 short", infinity, rss_peak_mb)),
    )
    yield Goal("MiniLM: least cosine to fp32 of sampled vectors", least_cosine(comparison))


def gguf_goals(comparison: Comparison) -> Iterator[Goal]:
    """Against llama-cpp-python's server, and the backend itself."""
    engine = "backend"
    yield rate(comparison, "2 x 256 short", engine, "GGUF bf16: share of the engine that arrives over HTTP")
    yield rate(comparison, "8 x 8 mixed", engine, "GGUF bf16: share of the engine that arrives over HTTP")
    for server, how in ((LLAMA, "server"), (LLAMA_TUNED, "server with flash attention")):
        for load in ("16 x 1 short", "2 x 256 short"):
            yield rate(comparison, load, server, f"GGUF bf16 against llama-cpp-python's {how}")
    yield Goal("GGUF bf16: least cosine to fp32 of sampled vectors", least_cosine(comparison))


def ceiling_goals(found: Ceiling) -> Iterator[Goal]:
    """Against the rate of matrix products."""
    for model in found.models:
        share = share_of(found, model, "bf16")
        words = f"{percent(share)} ({model.runtime}, {model.dtype}"
        own = f"; {percent(share_of(found, model, model.dtype))} of the rate in its own dtype)"
        what = "BERT-base's shape" if model.model == BERT_BASE else model.model
        yield Goal(
            f"{what}: share of the rate of bf16 matrix products",
            words + (")" if model.dtype == "bf16" else own),
        )


def large_goals(found: Large) -> Iterator[Goal]:
    """Whether a large model works at all, how fast, and in how much memory."""
    yield Goal(f"BGE-M3's shape: right vectors of {found.texts}", str(found.right))
    speed = f"{figure(1000 * found.elapsed_s / found.texts, 'ms')} a text ({found.runtime}, {found.dtype})"
    yield Goal("BGE-M3's shape: time, texts of 100 tokens", speed)
    pss = "" if found.pss_final_mb is None else f", {figure(found.pss_final_mb, 'MB')} PSS"
    memory = f"{figure(found.rss_peak_mb, 'MB')} at most; at the end {figure(found.rss_final_mb, 'MB')}{pss}"
    yield Goal("BGE-M3's shape: resident memory of all processes", memory)
    yield Goal("BGE-M3's shape: least cosine to fp32 of sampled vectors", cosine(found.cosine_min))


def rate(comparison: Comparison, load: str, other: str, what: str) -> Goal:
    """Compare inputs a second with another side's."""
    return Goal(f"{what}, {load}", times(of_cell(comparison, load, other, inputs_per_s)))


def of_cell(comparison: Comparison, load: str, other: str, what: Figure) -> float | None:
    """Return the gateway's figure over another side's."""
    cell = cell_of(comparison, load)
    return None if cell is None else ratio(cell, "gateway", other, what)


def cell_of(comparison: Comparison, load: str) -> Cell | None:
    """Find a cell by its name."""
    return next((cell for cell in comparison.cells if cell.name == load), None)


def least_cosine(comparison: Comparison) -> str:
    """Return the least cosine of the gateway's vectors in any cell."""
    known = [cell.cosines["gateway"] for cell in comparison.cells if "gateway" in cell.cosines]
    return cosine(min(known, default=None))


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
