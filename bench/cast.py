"""Who takes part in a comparison: sides are started; one that cannot take part is noted, the others go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np

from bench.answers import Vectors
from bench.compare import Reference, Say
from bench.engine_process import EngineError, EngineProcess
from bench.engines.command import Embed, Rows
from bench.machine import cores
from bench.peers import Missing
from bench.results import SideFacts, SideKind
from bench.server import Recipe, ServerError, stated
from bench.side import EngineSide, ServerSide, Side
from embeddings_gateway.backends.spec import Spec
from embeddings_gateway.workers.local.process import ENGINE_SETTINGS


class Cast:
    """Gathers the sides of one comparison; one that cannot take part is noted, and the others go on."""

    def __init__(self, stack: ExitStack, say: Say) -> None:
        self.sides: list[Side] = []
        self.left_out: list[str] = []
        self._stack = stack
        self._say = say

    def add(self, name: str, kind: SideKind, how: str, make: Callable[[SideFacts], Side]) -> None:
        """Start a side."""
        self._say(f"starting {name}")
        try:
            side = make(SideFacts(name, kind, how))
        except (Missing, ServerError, EngineError) as error:
            self.left_out.append(f"{name}: {error}")
            self._say(self.left_out[-1])
            return
        self._stack.callback(side.close)
        self.sides.append(side)

    def gateway(self, how: str, recipe: Recipe) -> None:
        """Start this project."""

        def make(facts: SideFacts) -> Side:
            side = ServerSide(facts, recipe)
            side.facts = SideFacts(facts.name, facts.kind, f"{how}; {', '.join(stated(side.address))}")
            return side

        self.add("gateway", "gateway", how, make)

    def server(self, name: str, how: str, recipe: Callable[[], Recipe]) -> None:
        """Start a peer's server."""
        self.add(name, "server", how, lambda facts: ServerSide(facts, recipe()))

    def engine(self, how: str, spec: Spec) -> None:
        """Start this project's backend in process."""
        argument = msgspec.json.encode(msgspec.structs.replace(spec, threads=cores())).decode()

        def make(facts: SideFacts) -> Side:
            engine = EngineProcess("bench.engines.backend", argument, environment=ENGINE_SETTINGS)
            ready = engine.ready
            return EngineSide(
                SideFacts(facts.name, facts.kind, f"{how}; {ready.runtime}, {ready.dtype}"), engine
            )

        self.add("backend", "engine", how, make)

    def library(self, model: Path) -> Reference | None:
        """Start sentence-transformers, a peer and the reference of vectors."""
        engines: list[EngineProcess] = []

        def make(facts: SideFacts) -> Side:
            engines.append(EngineProcess("bench.engines.library", str(model)))
            return EngineSide(facts, engines[0])

        how = "`SentenceTransformer(path).encode(texts)` in process, its defaults: fp32, batches of 32"
        self.add("sentence-transformers", "library", how, make)
        return None if not engines else lambda texts: vectors_of(engines[0], texts)


def vectors_of(engine: EngineProcess, texts: list[str]) -> Vectors:
    """Return the reference's vectors."""
    return np.array(engine.ask(Embed(texts), Rows).rows, dtype=np.float32)
