"""Contenders take turns on the same texts, and failures are reported."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench.comparison import Comparer, Contender
from bench.engines import BackendEngine, EngineProcess, plan_batches
from bench.machine import ProcessTree, sample_memory
from bench.results import ContenderInfo, Turn
from bench.run_spec import HTTP, RunError, RunResult, Workload
from bench.server import Recipe, Server, gateway
from bench.texts import make_texts
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.spec import FakeSpec, GgufSpec
from embeddings_gateway.config_file import parse

WORKLOAD = Workload(2, 3, "short", HTTP | {"library"})


class ScriptedEngine:
    """An engine that answers all requests but the fifth, and remembers what it was asked."""

    def __init__(self, fails=False):
        self.asked = []
        self._fails = fails

    def call(self, method, argument):
        """Run, or embed."""
        if method == "embed":
            return np.array([[1.0, 1.0]] * len(argument))
        self.asked.append(argument)
        if self._fails:
            raise RunError("it died")
        turn = Turn(elapsed_s=2.0, requests=9, inputs=9 * argument.inputs, failed=1, p50_ms=1.0)
        samples = {0: np.array([[1.0, 0.0]] * argument.inputs)} if argument.samples else {}
        return RunResult(turn, [number for number in range(10) if number != 4], samples)


class TenTokens:
    """Says that a text has ten tokens."""

    def count(self, kind, numbers):
        """Count."""
        return 10 * len(numbers)


def measured(rounds=3, **engines):
    """Measure a cell of contenders, by kind."""
    contenders = [
        Contender(ContenderInfo(kind, kind, ""), None, engine=engine) for kind, engine in engines.items()
    ]
    return Comparer(contenders, TenTokens()).cell(WORKLOAD, rounds, 1.0)


def test_contenders_take_turns_on_the_same_texts():
    """In every round all have the same texts, which no other round has; other kinds have no turn."""
    first, second, other = ScriptedEngine(), ScriptedEngine(), ScriptedEngine()
    cell = measured(gateway=first, server=second, engine=other)
    assert [turn.contender for turn in cell.turns] == ["gateway", "server"] * 3
    assert first.asked == second.asked
    assert not other.asked
    used = [set(range(spec.start, spec.start + spec.texts)) for spec in first.asked]
    assert not any(one & another for one, another in itertools.combinations(used, 2))


def test_a_turn_tells_what_was_answered():
    """Inputs and tokens are those of answered requests; a contender that fails has a turn with its reason."""
    cell = measured(rounds=1, gateway=ScriptedEngine(), server=ScriptedEngine(fails=True))
    first, lost = cell.turns
    assert (first.inputs, first.tokens, first.failed) == (9 * 512, 9 * 512 * 10, 1)
    assert (lost.inputs, lost.failed, lost.errors) == (0, 1, ["it died"])


def test_vectors_are_compared_with_the_reference():
    """The least cosine of the sampled vectors to the library's is stored by contender."""
    cell = measured(gateway=ScriptedEngine(), library=ScriptedEngine())
    assert cell.cosines == {name: pytest.approx(np.sqrt(0.5)) for name in ("gateway", "library")}


@pytest.mark.parametrize("cost", ["padded", "packed"])
def test_batches_are_full_and_within_limits(cost):
    """Every input is in one batch; none costs more than the backend takes, and none has room for the next."""
    backend = FakeBackend(FakeSpec(cost=cost, max_batch_tokens=200))
    tokens = backend.tokenize(make_texts("short", range(100))).lengths.tolist()
    planned = list(plan_batches(tokens, backend.info))
    assert sorted(index for batch in planned for index in batch) == list(range(100))
    lengths = [[tokens[index] for index in batch] for batch in planned]
    price = {"padded": lambda batch: max(batch) * len(batch), "packed": sum}[cost]
    assert all(price(batch) <= 200 or len(batch) == 1 for batch in lengths)
    assert all(price([*batch, later[0]]) > 200 for batch, later in itertools.pairwise(lengths))


def test_an_engine_runs_in_a_process_of_its_own():
    """Calls have the vectors of their texts in order; what fails is an error, and the next call succeeds."""
    engine = EngineProcess(BackendEngine, FakeSpec(), settings={})
    spec = Workload(1, 1, "mixed").spec(None, 0, 600.0, 1)._replace(inputs=30, warm_up=1, requests=5)
    result = engine.call("run", spec)
    assert result.answered == [0, 1, 2, 3, 4]
    assert msgspec.json.decode(msgspec.json.encode(result.turn), type=Turn) == result.turn
    backend, texts = FakeBackend(FakeSpec()), make_texts("mixed", spec.text_numbers([0]))
    alone = np.concatenate(
        [backend.run(backend.tokenize([text]), ("dense",))["dense"].values for text in texts]
    )
    np.testing.assert_array_equal(result.samples[0], alone)
    with pytest.raises(RunError, match="TypeError"):
        engine.call("embed", 5)
    assert engine.call("tokens_per_s", 2, 16, 0.0) > 0
    engine.close()
    with pytest.raises(RunError, match=r"LoadError: .*nothing"):
        EngineProcess(BackendEngine, GgufSpec(path="/nothing.gguf"), settings={})


def test_a_process_tree_has_descendants():
    """A child counts for its parent: its memory while it lives, its processor time afterwards too."""
    tree = ProcessTree(os.getpid())
    used = tree.cpu_s()
    child = subprocess.Popen([sys.executable, "-c", "print(sum(range(10**6))); input()"], stdin=-1, stdout=-1)
    assert child.stdout.readline()
    assert child.pid in [process.pid for process in tree.family()]
    with sample_memory(os.getpid()) as memory, sample_memory(child.pid) as part, sample_memory(None) as none:
        pass
    assert memory.rss_peak_mb > part.rss_peak_mb > 1
    assert none.rss_peak_mb is None
    child.communicate(b"\n")
    assert tree.cpu_s() > used
    assert ProcessTree(child.pid).cpu_s() == 0


def test_a_server_that_does_not_start_says_why():
    """The error has the status and the last output, or how to install what is not there."""
    script = "import sys; sys.exit('no port ' + sys.argv[1])"
    server = Server(Recipe((sys.executable, "-c", script, "{port}"), "/v1", "m"))
    with pytest.raises(RunError, match=r"status 1: no port \d+"):
        server.ready()
    server.close()
    with pytest.raises(RunError, match="make bench-peers"):
        Server(Recipe(("/nothing",), "/v1", "m"))


def test_the_configuration_that_is_written_can_be_read():
    """The configuration is valid, whatever is in the path, and the command is the one that was given."""
    recipe = gateway("m", {"backend": "gguf", "path": '/a "b"\\c.gguf'}, ("other", "gateway"))
    config = parse(tomllib.loads(recipe.config), Path("/"), "")
    assert config.models["m"].spec.path == '/a "b"\\c.gguf'
    assert recipe.command[:3] == ("other", "gateway", "serve")
