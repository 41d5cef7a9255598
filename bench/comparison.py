"""The gateway beside its peers on one model: in each round each contender has a turn, on the same texts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import models, peers
from bench.engine_process import EngineProcess
from bench.engines import BackendEngine, LibraryEngine
from bench.generator import cosines, generate
from bench.machine import cores
from bench.metrics import METRICS, written
from bench.options import Options, log
from bench.process_tree import ProcessTree, sample_memory
from bench.results import Cell, Comparison, ContenderInfo, Group, Kind, Turn
from bench.run_spec import WORKLOADS, Endpoint, RunError, RunResult, RunSpec, Workload
from bench.server import Recipe, Server, find_endpoint, gateway_runtime
from bench.texts import make_texts
from embeddings_gateway.backends.spec import GgufSpec, Spec
from embeddings_gateway.config_file import read_config
from embeddings_gateway.workers.local.process import ENGINE_SETTINGS

SAMPLE_REQUESTS, SAMPLE_VECTORS = 2, 10
LIBRARY = "`SentenceTransformer(path).encode(texts)` in process, its defaults: fp32, batches of 32"
INFINITY = f"`infinity_emb {peers.INFINITY}`"
LLAMA = "`python -m llama_cpp.server`, same file, as many threads"


class InProcess(NamedTuple):
    """How an engine in process is started: what makes it, its argument, and settings of its environment."""

    make: Callable[..., object]
    argument: object
    settings: Mapping[str, str] = {}


Participant = tuple[str, Kind, str, Recipe | InProcess | Endpoint]
"""Name, kind, how it is described, and how it is started, unless it runs already."""


class Contender(NamedTuple):
    """A participant that runs. An engine in process has no endpoint, a server no engine."""

    info: ContenderInfo
    pid: int | None
    endpoint: Endpoint | None = None
    engine: EngineProcess | None = None

    def run(self, spec: RunSpec) -> RunResult:
        """Take a turn; one that cannot be taken has failed."""
        try:
            result: RunResult = self.engine.call("run", spec) if self.engine else generate(spec)
        except RunError as error:
            result = RunResult(Turn(failed=1, errors=[str(error)]))
        return result


def minilm(options: Options) -> Comparison:
    """Compare on all-MiniLM-L6-v2, with the gateway as it comes."""
    model = models.minilm()
    name, served = next(iter(read_config(None).models.items()))
    backend = "the gateway's backend in process, as the default configures it"
    with tempfile.TemporaryDirectory() as folder:
        participants = [
            *_gateways(options, "no settings", Path(folder), name, {}),
            ("infinity", "server", INFINITY, peers.infinity(options.peers_dir, model)),
            ("sentence-transformers", "library", LIBRARY, InProcess(LibraryEngine, str(model))),
            ("backend", "engine", backend, _backend(served.spec)),
            *_running("minilm", options),
        ]
        return compare(participants, WORKLOADS, options)


def gguf(options: Options) -> Comparison:
    """Compare on all-MiniLM-L6-v2 as a GGUF file in bf16; sentence-transformers is the reference only."""
    file = models.minilm_gguf()
    keys = {"backend": "gguf", "path": str(file)}
    llama, tuned = (peers.llama_server(options.peers_dir, file, settings) for settings in ("", peers.TUNED))
    workloads = [each._replace(kinds=each.kinds - {"library"}) for each in WORKLOADS]
    with tempfile.TemporaryDirectory() as folder:
        participants = [
            *_gateways(options, "no settings but the file", Path(folder), "minilm-gguf", keys),
            ("llama-cpp-python", "server", LLAMA, llama),
            ("llama-cpp-python, tuned", "server", f"{LLAMA}, `{peers.TUNED}`", tuned),
            ("sentence-transformers", "library", LIBRARY, InProcess(LibraryEngine, str(models.minilm()))),
            ("backend", "engine", "the gateway's backend in process", _backend(GgufSpec(path=str(file)))),
            *_running("gguf", options),
        ]
        return compare(participants, workloads, options)


def _gateways(
    options: Options, how: str, folder: Path, model: str, keys: Mapping[str, str | int]
) -> Iterator[Participant]:
    for name, command in options.gateways.items():
        recipe = peers.gateway(folder, model, keys, command)
        if name == "gateway":
            yield name, "gateway", f"`embeddings-gateway serve`, {how}", recipe
        else:
            yield name, "server", f"`{' '.join(command)} serve`, {how}", recipe


def _backend(spec: Spec) -> InProcess:
    return InProcess(BackendEngine, msgspec.structs.replace(spec, threads=cores()), ENGINE_SETTINGS)


def _running(group: Group, options: Options) -> Iterator[Participant]:
    for name, url, model, pid in options.url_peers(group):
        how = f"a server that ran already, asked for `{model}`"
        yield name, "server", how, Endpoint(f"{url.rstrip('/')}/embeddings", model, pid)


def compare(
    participants: Sequence[Participant], workloads: Sequence[Workload], options: Options
) -> Comparison:
    """Start the contenders, but for those that do not start; measure all workloads; end the contenders."""
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
    """Start a participant; leave it to the stack to end it. Gateways and backends say what runs their model.

    Raises:
        RunError: it does not start.
    """
    name, kind, how, recipe = participant
    log(f"starting {name}")
    if isinstance(recipe, InProcess):
        make, argument, settings = recipe
        engine = stack.enter_context(closing(EngineProcess(make, argument, settings=settings)))
        how += f"; {', '.join(engine.call('runtime'))}" if kind == "engine" else ""
        return Contender(ContenderInfo(name, kind, how), engine.pid, engine=engine)
    if isinstance(recipe, Recipe):
        endpoint = stack.enter_context(closing(Server(recipe))).ready()
    else:
        endpoint = find_endpoint(recipe.url, recipe.model, recipe.pid)
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
            result = contender.run(spec)
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
