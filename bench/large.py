"""A model of BGE-M3's shape over HTTP: a thousand texts of a hundred tokens, and the memory they take."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from bench import models, peers
from bench.answers import cosines
from bench.compare import Say
from bench.engine_process import EngineError, EngineProcess
from bench.engines.command import Embed, Rows
from bench.generator import generate
from bench.options import Options
from bench.plan import Load, Plan
from bench.process_tree import MemorySampler, ProcessTree, pss_mb, rss_mb
from bench.results import Large
from bench.server import Address, Server, stated
from bench.texts import make_texts

TEXTS, QUICK_TEXTS = 1000, 50
CLIENTS, INPUTS = 5, 10
WIDTH = 1024
LONGEST_S = 3600.0


def large(options: Options, say: Say) -> Large:
    """Send the texts once, from a few clients; compare a few vectors with the reference.

    Raises:
        ServerError: the gateway does not start.
        ModelError: the model cannot be built.
    """
    say("building a model of BGE-M3's shape, if there is none yet")
    folder = models.large()
    with tempfile.TemporaryDirectory() as work:
        server = Server(peers.gateway(Path(work), "large", {"backend": "hf", "path": str(folder)}))
        tree = ProcessTree(server.pid)
        try:
            with MemorySampler(tree) as loading:
                address = server.ready()
            plan = plan_for(address, QUICK_TEXTS if options.quick else TEXTS)
            with MemorySampler(tree, pss=True) as sampler:
                load = generate(plan)
            rss, pss = rss_mb(tree.family()), pss_mb(tree.family())
            runtime, dtype = stated(address)
        finally:
            server.close()
    say(f"large: {plan.requests * INPUTS} texts in {load.elapsed_s:.1f} s")
    own, other = compared(folder, plan, load)
    return Large(
        settings=options.settings,
        runtime=runtime,
        dtype=dtype,
        texts=plan.requests * INPUTS,
        tokens=sum(models.TokenCounter(folder).count("wide", plan.texts_of(i)) for i in load.answered),
        right=load.unit if widths(load) <= {WIDTH} else 0,
        failed=load.failed + load.wrong,
        elapsed_s=load.elapsed_s,
        cpu_s=load.cpu_s or 0.0,
        rss_loading_mb=loading.rss_peak_mb or 0.0,
        rss_peak_mb=sampler.rss_peak_mb or 0.0,
        rss_final_mb=rss,
        pss_peak_mb=sampler.pss_peak_mb,
        pss_final_mb=pss,
        cosine_min=own,
        cosine_other=other,
    )


def plan_for(address: Address, texts: int) -> Plan:
    """Send so many texts, after one request of each client to warm up."""
    return Plan(
        kind="wide",
        start=0,
        warm_up=CLIENTS,
        requests=texts // INPUTS,
        inputs=INPUTS,
        clients=CLIENTS,
        seconds=LONGEST_S,
        samples=1,
        host=address.host,
        port=address.port,
        path=address.path,
        model=address.model,
        base64=address.base64,
        pid=address.pid,
    )


def compared(folder: Path, plan: Plan, load: Load) -> tuple[float | None, float | None]:
    """Return the least cosine of a text's vector to its reference, and the largest to another text's.

    With random weights texts lie close together, so the one says little without the other.
    """
    for request, rows in load.samples.items():
        numbers = plan.texts_of(request)
        texts = make_texts(plan.kind, numbers.start, len(numbers))
        try:
            with EngineProcess("bench.engines.library", str(folder)) as library:
                reference = np.array(library.ask(Embed(texts), Rows).rows, dtype=np.float32)
        except EngineError:
            return None, None
        found = cosines(np.array(rows, dtype=np.float32), reference)
        own = np.eye(len(texts), dtype=bool)
        return float(found[own].min()), float(found[~own].max())
    return None, None


def widths(load: Load) -> set[int]:
    """Return the widths of the vectors that were looked at."""
    return {len(row) for rows in load.samples.values() for row in rows}
