"""The gateway beside its peers on one model: in each round each contender has a turn, on the same texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import NamedTuple

import msgspec

from bench import models
from bench.engines import BackendEngine, EngineProcess, LibraryEngine
from bench.generator import cosines, generate
from bench.machine import ProcessTree, sample_memory
from bench.metrics import METRICS, written
from bench.options import Options, log
from bench.results import Cell, Comparison, ContenderInfo, Group, Kind, Turn
from bench.run_spec import WORKLOADS, Endpoint, RunError, RunResult, RunSpec, Workload
from bench.server import (
    INFINITY,
    TUNED,
    Recipe,
    Server,
    find_endpoint,
    gateway,
    gateway_runtime,
    infinity,
    llama_server,
)
from bench.texts import make_texts
from embeddings_gateway.backends.spec import GgufSpec, Spec
from embeddings_gateway.config_file import read_config
from embeddings_gateway.workers.local.cores import usable
from embeddings_gateway.workers.local.environment import ENGINE_SETTINGS

SAMPLE_REQUESTS, SAMPLE_VECTORS = 2, 10
LIBRARY = "`SentenceTransformer(path).encode(texts)` in process, its defaults: fp32, batches of 32"
LLAMA = "`python -m llama_cpp.server`, same file, as many threads"

Participant = tuple[str, Kind, str, Recipe | Endpoint | Callable[[], EngineProcess]]
"""Name, kind, how it is described, and how it is started, unless it runs already."""


class Contender(NamedTuple):
    """A participant that runs. An engine in process has no endpoint, a server no engine."""

    info: ContenderInfo
    pid: int | None
    endpoint: Endpoint | None = None
    engine: EngineProcess | None = None


def minilm(options: Options) -> Comparison:
    """Compare on all-MiniLM-L6-v2, with the gateway as it comes."""
    name, served = next(iter(read_config(None).models.items()))
    peer = infinity(options.peers_dir, models.minilm())
    participants: list[Participant] = [
        *_servers("minilm", "no settings", name, {}, options),
        ("infinity", "server", f"`infinity_emb {INFINITY}`", peer),
        *_in_process("the gateway's backend in process, as the default configures it", served.spec),
    ]
    return compare(participants, WORKLOADS, options)


def gguf(options: Options) -> Comparison:
    """Compare on all-MiniLM-L6-v2 as a GGUF file in bf16; sentence-transformers is the reference only."""
    file = models.built("minilm-bf16.gguf")
    keys = {"backend": "gguf", "path": str(file)}
    plain, tuned = (llama_server(options.peers_dir, file, settings) for settings in ("", TUNED))
    participants: list[Participant] = [
        *_servers("gguf", "no settings but the file", "minilm-gguf", keys, options),
        ("llama-cpp-python", "server", LLAMA, plain),
        ("llama-cpp-python, tuned", "server", f"{LLAMA}, `{TUNED}`", tuned),
        *_in_process("the gateway's backend in process", GgufSpec(path=str(file))),
    ]
    workloads = [each._replace(kinds=each.kinds - {"library"}) for each in WORKLOADS]
    return compare(participants, workloads, options)


def _servers(
    group: Group, how: str, model: str, keys: Mapping[str, str | int], options: Options
) -> Iterator[Participant]:
    """Yield the gateways of this checkout and of others, and the servers that run already."""
    for name, command in options.gateways.items():
        kind: Kind = "gateway" if name == "gateway" else "server"
        line = "embeddings-gateway" if name == "gateway" else " ".join(command)
        yield name, kind, f"`{line} serve`, {how}", gateway(model, keys, command)
    for name, url, asked, pid in options.url_peers(group):
        endpoint = Endpoint(f"{url.rstrip('/')}/embeddings", asked, pid)
        yield name, "server", f"a server that ran already, asked for `{asked}`", endpoint


def _in_process(how: str, spec: Spec) -> Iterator[Participant]:
    library = partial(EngineProcess, LibraryEngine, str(models.minilm()), settings={})
    yield "sentence-transformers", "library", LIBRARY, library
    spec = msgspec.structs.replace(spec, threads=usable().total)
    yield "backend", "engine", how, partial(EngineProcess, BackendEngine, spec, settings=ENGINE_SETTINGS)


def compare(
    participants: Sequence[Participant], workloads: Sequence[Workload], options: Options
) -> Comparison:
    """Start the participants, but for those that do not start; measure all workloads; end them."""
    contenders: list[Contender] = []
    left_out: list[str] = []
    with ExitStack() as stack:
        for participant in participants:
            try:
                contenders.append(start(stack, participant, options))
            except RunError as error:
                left_out.append(f"{participant[0]}: {error}")
                log(left_out[-1])
        comparer = Comparer(contenders, models.TokenCounter(models.minilm()))
        cells = [comparer.cell(workload, options.rounds, options.seconds) for workload in workloads]
    return Comparison(options.settings, [contender.info for contender in contenders], cells, left_out)


def start(stack: ExitStack, participant: Participant, options: Options) -> Contender:
    """Start a participant, which the stack ends; gateways and backends say what runs their model."""
    name, kind, how, recipe = participant
    log(f"starting {name}")
    if isinstance(recipe, Endpoint):
        endpoint = find_endpoint(recipe.url, recipe.model, recipe.pid)
    elif isinstance(recipe, Recipe):
        endpoint = stack.enter_context(closing(Server(recipe))).ready()
    else:
        engine = stack.enter_context(closing(recipe()))
        how += f"; {', '.join(engine.call('runtime'))}" if kind == "engine" else ""
        return Contender(ContenderInfo(name, kind, how), engine.pid, engine=engine)
    how += f"; {gateway_runtime(endpoint)}" if name in options.gateways else ""
    return Contender(ContenderInfo(name, kind, how), endpoint.pid, endpoint)


class Comparer:
    """Takes the turns. Text numbers only go up, so no text is used twice."""

    def __init__(self, contenders: Sequence[Contender], counter: models.TokenCounter) -> None:
        self._contenders, self._counter = contenders, counter
        self._next_text = 0

    def cell(self, workload: Workload, rounds: int, seconds: float) -> Cell:
        """Measure one workload on all contenders that take part in it."""
        cell = Cell(workload.name, [], {})
        for number in range(rounds):
            used = 0
            for contender in self._contenders:
                if contender.info.kind in workload.kinds:
                    samples = 0 if number else SAMPLE_REQUESTS
                    spec = workload.spec(contender.endpoint, self._next_text, seconds, samples)
                    self._take_turn(cell, number, contender, spec)
                    used = max(used, spec.texts)
            self._next_text += used
        return cell

    def _take_turn(self, cell: Cell, number: int, contender: Contender, spec: RunSpec) -> None:
        others = [ProcessTree(one.pid) for one in self._contenders if one is not contender and one.pid]
        idle_s = -sum(tree.cpu_s() for tree in others)
        with sample_memory(contender.pid) as memory:
            try:
                result = contender.engine.call("run", spec) if contender.engine else generate(spec)
            except RunError as error:
                result = RunResult(Turn(failed=1, errors=[str(error)]))
        figures = {
            "contender": contender.info.name,
            "round": number,
            "tokens": self._counter.count(spec.kind, spec.text_numbers(result.answered)),
            "rss_peak_mb": memory.rss_peak_mb,
            "idle_cpu_s": idle_s + sum(tree.cpu_s() for tree in others),
        }
        turn = msgspec.structs.replace(result.turn, **figures)
        cell.turns.append(turn)
        rate, p50 = written(METRICS["inputs/s"](turn)), written(turn.p50_ms, "ms")
        failures = f"{turn.failed} failed, {turn.wrong} wrong {' | '.join(turn.errors)[:300]}"
        log(f"{cell.workload}, round {number + 1}, {turn.contender}: {rate} inputs/s, p50 {p50}, {failures}")
        self._compare_vectors(cell, turn.contender, spec, result)

    def _compare_vectors(self, cell: Cell, name: str, spec: RunSpec, result: RunResult) -> None:
        """Keep the least cosine of a few vectors to those of sentence-transformers, if that takes part."""
        for library in (one.engine for one in self._contenders if one.info.kind == "library" and one.engine):
            for request, rows in result.samples.items():
                texts = make_texts(spec.kind, spec.text_numbers([request])[:SAMPLE_VECTORS])
                least = cosines(rows[:SAMPLE_VECTORS], library.call("embed", texts)).diagonal().min()
                cell.cosines[name] = min(float(least), cell.cosines.get(name, 1.0))
