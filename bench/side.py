"""What is compared, and asked in one way: servers over HTTP, and engines in processes of their own."""

from __future__ import annotations

from typing import Protocol

import msgspec

from bench.engine_process import EngineError, EngineProcess
from bench.generator import GeneratorError, generate
from bench.plan import Load, Plan
from bench.results import SideFacts
from bench.server import Address, Recipe, Server, ServerError
from bench.shape import Shape

CALL_INPUTS = {"short": 512, "mixed": 128, "long": 32, "wide": 32}
"""Texts of one call in process: about 8000 tokens, which the engine may sort and batch as it likes."""
ALONE_WARM_UP = 20


class SideError(Exception):
    """A side could not take its turn."""


class Side(Protocol):
    """One of those that are compared. Turns are taken one at a time."""

    facts: SideFacts

    @property
    def pid(self) -> int | None:
        """The root of its processes; ``None`` where it is not known."""

    def plan(self, shape: Shape, start: int, seconds: float, samples: int) -> Plan:
        """Say what a turn is for this side; the texts are those from number ``start`` on."""

    def run(self, plan: Plan) -> Load:
        """Take a turn.

        Raises:
            SideError: it cannot.
        """

    def close(self) -> None:
        """End what was started for this side."""


class UrlSide:
    """A server that somebody else has started."""

    def __init__(self, facts: SideFacts, address: Address) -> None:
        self.facts = facts
        self.pid = address.pid
        self._address = address

    def plan(self, shape: Shape, start: int, seconds: float, samples: int) -> Plan:
        """Say what requests a turn is made of."""
        return http_plan(self._address, shape, start, seconds, samples)

    def run(self, plan: Plan) -> Load:
        """Let the load generator carry out the plan."""
        try:
            return generate(plan)
        except GeneratorError as error:
            raise SideError(str(error)) from None

    def close(self) -> None:
        """Leave it running: it is not ours."""


class ServerSide:
    """A server by its recipe: started, and started again when it has died."""

    def __init__(self, facts: SideFacts, recipe: Recipe) -> None:
        """Start it and wait until it answers.

        Raises:
            ServerError: it does not.
        """
        self.facts = facts
        self._recipe = recipe
        self._start()

    @property
    def pid(self) -> int | None:
        """The server's process."""
        return self._server.pid

    @property
    def address(self) -> Address:
        """Where it answers."""
        return self._server.address

    def plan(self, shape: Shape, start: int, seconds: float, samples: int) -> Plan:
        """Say what requests a turn is made of."""
        return http_plan(self.address, shape, start, seconds, samples)

    def run(self, plan: Plan) -> Load:
        """Let the load generator carry out the plan; a server that dies of it is told of, and replaced."""
        try:
            load = generate(plan)
        except GeneratorError as error:
            raise SideError(self._obituary() or str(error)) from None
        if said := self._obituary():
            return msgspec.structs.replace(load, errors=[*load.errors, said])
        return load

    def close(self) -> None:
        """End the server."""
        self._server.close()

    def _start(self) -> None:
        self._server = Server(self._recipe)
        try:
            self._server.ready()
        except ServerError:
            self._server.close()
            raise

    def _obituary(self) -> str | None:
        """Say why the server has died, if it has, after starting another."""
        if self._server.alive:
            return None
        said = f"the server died: {self._server.last_words()[-300:]}"
        self._server.close()
        try:
            self._start()
        except ServerError as error:
            raise SideError(f"{said}, and did not come back: {error}") from None
        return said


class EngineSide:
    """An engine in process: it is given many texts at once, or one at a time where a client sends one."""

    def __init__(self, facts: SideFacts, engine: EngineProcess) -> None:
        self.facts = facts
        self.pid: int | None = engine.pid
        self._engine = engine

    def plan(self, shape: Shape, start: int, seconds: float, samples: int) -> Plan:
        """Say what calls a turn is made of."""
        alone = shape.clients * shape.inputs == 1
        inputs = 1 if alone else CALL_INPUTS[shape.kind]
        warm_up = ALONE_WARM_UP if alone else 1
        return Plan(
            kind=shape.kind,
            start=start,
            warm_up=warm_up,
            requests=max(1, shape.texts(seconds) // inputs - warm_up),
            inputs=inputs,
            clients=1,
            seconds=seconds,
            samples=samples,
        )

    def run(self, plan: Plan) -> Load:
        """Let the engine carry out the plan."""
        try:
            return self._engine.ask(plan, Load)
        except EngineError as error:
            raise SideError(str(error)) from None

    def close(self) -> None:
        """End the engine's process."""
        self._engine.close()


def http_plan(address: Address, shape: Shape, start: int, seconds: float, samples: int) -> Plan:
    """Return the plan of a shape's turn against a server."""
    warm_up = max(shape.clients, ALONE_WARM_UP if shape.inputs == 1 else 0)
    return Plan(
        host=address.host,
        port=address.port,
        path=address.path,
        model=address.model,
        base64=address.base64,
        pid=address.pid,
        kind=shape.kind,
        start=start,
        warm_up=warm_up,
        requests=max(shape.clients, shape.texts(seconds) // shape.inputs - warm_up),
        inputs=shape.inputs,
        clients=shape.clients,
        seconds=seconds,
        samples=samples,
    )
