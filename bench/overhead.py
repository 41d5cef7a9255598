"""The gateway by itself: processor time with a backend that computes nothing, a warm start, a large model."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from bench import models
from bench.engines import EngineProcess, LibraryEngine
from bench.generator import cosines, generate
from bench.machine import ProcessTree, pss_mb, rss_mb, sample_memory, total
from bench.options import Options, log
from bench.results import Figures
from bench.run_spec import Endpoint, RunResult, RunSpec, Workload
from bench.server import Server, gateway, gateway_runtime
from bench.texts import make_texts
from embeddings_gateway.config_file import read_config

FAKE: dict[str, str | int] = {
    "backend": "fake",
    "width": 384,
    "batch_tokens": 4096,
}  # a name that earlier releases know as well
"""Its tokens are bytes: as many inputs make a batch as with real tokens and the budgets of real models."""
SMALL = Workload(32, 1, "short")
BULK = (Workload(8, 32, "short"), Workload(4, 256, "short"), Workload(2, 2048, "short"))
BULK_INPUTS, QUICK_BULK_INPUTS = 65_536, 16_384
LONGEST_S = 3600.0
STARTS, QUICK_STARTS = 5, 2
LARGE, LARGE_DIMENSIONS = Workload(5, 10, "wide"), 1024
LARGE_TEXTS, QUICK_LARGE_TEXTS = 1000, 50


def fake(options: Options) -> Figures:
    """Measure the processor time for a request, and for an input of bulk requests, gateways in turn."""
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    where = "the gateway on one core, worker and generator on another" if len(cores) > 1 else "cores shared"
    result = Figures(options.settings, f"A backend without a model, 384 dimensions, base64; {where}.")
    with ExitStack() as stack:
        endpoints = {}
        for name, command in options.gateways.items():
            recipe = gateway("fake", FAKE, command)
            endpoints[name] = stack.enter_context(closing(Server(recipe))).ready()
        if len(cores) > 1:
            stack.callback(os.sched_setaffinity, 0, cores)
            _pin(list(endpoints.values()), *cores[:2])
        text = 0
        for number in range(options.rounds):
            for workload in (SMALL, *BULK):
                for name, endpoint in endpoints.items():
                    spec = _overhead_spec(workload, endpoint, text, options)
                    line = _add_overhead(result, name, workload, generate(spec))
                    log(f"fake, round {number + 1}, {name}, {line}")
                text += spec.texts
    return result


def _overhead_spec(workload: Workload, endpoint: Endpoint, text: int, options: Options) -> RunSpec:
    spec = workload.spec(endpoint, text, options.seconds)
    if workload is SMALL:
        return spec
    inputs = QUICK_BULK_INPUTS if options.quick else BULK_INPUTS
    return spec._replace(requests=inputs // workload.inputs, seconds=LONGEST_S)


def _add_overhead(result: Figures, name: str, workload: Workload, run: RunResult) -> str:
    turn, one = run.turn, "request" if workload is SMALL else "input"
    inputs, failed = max(1, turn.inputs), turn.failed + turn.wrong
    gateway_us, tree_us = 1e6 * run.root_cpu_s / inputs, 1e6 * (turn.cpu_s or 0.0) / inputs
    load = f"{workload.clients} x {workload.inputs}" + ("" if name == "gateway" else f", {name}")
    result.add(f"{load}: {one}s/s", turn.inputs / turn.elapsed_s)
    result.add(f"{load}: processor time of the gateway for one {one}, µs", gateway_us)
    result.add(f"{load}: processor time of the worker for one {one}, µs", tree_us - gateway_us)
    result.add(f"{load}: processor time of the generator for one {one}, µs", 1e6 * turn.client_cpu_s / inputs)
    result.add(f"{load}: failed requests", failed)
    return f"{load}: {gateway_us:.1f} µs for one {one}, {failed} failed {' | '.join(turn.errors)[:300]}"


def _pin(endpoints: list[Endpoint], first: int, second: int) -> None:
    """Put the gateways' processes on one core, and everything else, this process included, on another."""
    for endpoint in endpoints:
        root, *workers = ProcessTree(endpoint.pid or 0).family()
        for process in (root, *workers):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, {first if process is root else second})
    os.sched_setaffinity(0, {second})  # the load generator inherits it


def start(options: Options) -> Figures:
    """Start the default configuration again and again; the first start fills caches and does not count."""
    about = "From the command to the first vector over HTTP, all files being in the system's cache."
    result = Figures(options.settings, about)
    recipe = gateway(next(iter(read_config(None).models)), {})
    for number in range(1 + (QUICK_STARTS if options.quick else STARTS)):
        began = time.perf_counter()
        with closing(Server(recipe)) as server:
            server.ready()
            seconds = time.perf_counter() - began
        log(f"start {number}: {seconds:.2f} s")
        result.add("warm start, s", seconds if number else None)
    return result


def large(options: Options) -> Figures:
    """Send a thousand texts of a hundred tokens to a model of BGE-M3's shape; compare a few vectors."""
    folder = models.built("large")
    texts = QUICK_LARGE_TEXTS if options.quick else LARGE_TEXTS
    with closing(Server(gateway("large", {"backend": "hf", "path": str(folder)}))) as server:
        with sample_memory(server.pid) as loading:
            endpoint = server.ready()
        spec = LARGE.spec(endpoint, 0, LONGEST_S, 1)._replace(requests=texts // LARGE.inputs)
        with sample_memory(server.pid, pss=True) as memory:
            run = generate(spec)
        family = ProcessTree(server.pid).family()
        rss, pss = total(family, rss_mb), total(family, pss_mb)
        runtime = gateway_runtime(endpoint)
    about = f"A model of BGE-M3's shape with random weights ({runtime}), {texts} texts of 100 tokens."
    result, turn = Figures(options.settings, about), run.turn
    tokens = models.TokenCounter(folder).count(spec.kind, spec.text_numbers(run.answered))
    right_width = {rows.shape[1] for rows in run.samples.values()} <= {LARGE_DIMENSIONS}
    own, other = _reference_cosines(folder, spec, run) if run.samples else (None, None)
    result.add("right vectors", run.unit_vectors if right_width else 0)
    result.add("failed requests", turn.failed + turn.wrong)
    result.add("time of a text, ms", 1000 * turn.elapsed_s / texts)
    result.add("tokens/s", tokens / turn.elapsed_s)
    result.add("processor time of a text, ms", 1000 * (turn.cpu_s or 0.0) / texts)
    result.add("resident memory, sampled peak of the start, MB", loading.rss_peak_mb)
    result.add("resident memory, sampled peak, MB", memory.rss_peak_mb)
    result.add("resident memory at the end, MB", rss)
    result.add("proportional memory (PSS), sampled peak, MB", memory.pss_peak_mb)
    result.add("proportional memory (PSS) at the end, MB", pss)
    result.add("least cosine to fp32", own)
    result.add("largest cosine to another text's vector in fp32", other)
    return result


def _reference_cosines(folder: Path, spec: RunSpec, run: RunResult) -> tuple[float, float]:
    """Return the least cosine of a text's vector to its reference, and the largest to another text's.

    With random weights texts lie close together, so the one says little without the other.
    """
    ((request, rows),) = run.samples.items()
    with closing(EngineProcess(LibraryEngine, str(folder), settings={})) as library:
        texts = make_texts(spec.kind, spec.text_numbers([request]))
        found = cosines(rows, library.call("embed", texts))
    own = np.eye(len(texts), dtype=bool)
    return float(found[own].min()), float(found[~own].max())
