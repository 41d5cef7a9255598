"""A workload, one contender's run of it, and the result: plain data that is sent between processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.metrics import percentile
from bench.results import Kind, Turn
from bench.texts import TextKind

Vectors = NDArray[np.float32]

TEXTS_PER_S = {"short": 10_000, "mixed": 2_000, "long": 1_000, "wide": 1_000}
"""More than a processor embeds: a run that uses up its texts ends early."""
CALL_INPUTS = {"short": 512, "mixed": 128, "long": 32, "wide": 32}
"""Texts of one call in process: about 8000 tokens, which the engine may sort and batch as it likes."""
HTTP: frozenset[Kind] = frozenset(("gateway", "server"))
SPARE_TEXTS = 1024
SINGLE_WARM_UP = 20


class RunError(Exception):
    """A server, an engine or the load generator does not start, does not answer, or has ended."""


class Endpoint(NamedTuple):
    """Where a server answers: the URL of its embeddings, the model to ask for, its root process if known."""

    url: str
    model: str
    pid: int | None
    base64: bool = False


class RunSpec(NamedTuple):
    """One run. A request is an HTTP request to the endpoint, or a call in process without one."""

    kind: TextKind
    start: int  # the number of the first text; the first texts are the warm-up's
    warm_up: int  # requests before the clock starts
    requests: int  # at most so many after
    inputs: int  # of a request
    clients: int  # each has one request in flight
    seconds: float  # how long new requests are sent
    samples: int  # of so many requests the vectors are returned
    endpoint: Endpoint | None

    @property
    def texts(self) -> int:
        """The number of texts that it may use."""
        return (self.warm_up + self.requests) * self.inputs

    def text_numbers(self, requests: Iterable[int]) -> list[int]:
        """Return the numbers of the texts of requests, which are counted after the warm-up."""
        firsts = (self.start + (self.warm_up + request) * self.inputs for request in requests)
        return [first + index for first in firsts for index in range(self.inputs)]


class RunResult(msgspec.Struct):
    """The result of a run: a turn's figures, less what the process that ran it cannot know."""

    turn: Turn
    answered: list[int] = []  # requests with a right answer
    samples: dict[int, Vectors] = {}  # the vectors of the first of them
    root_cpu_s: float = 0.0  # processor time of the server's own process, without its children's
    unit_vectors: int = 0  # how many vectors have unit length


def run_result(
    spec: RunSpec, vectors: Mapping[int, Vectors | None], latencies_ms: Sequence[float], **figures: Any
) -> RunResult:
    """Return the result of a run from the vectors of each request, ``None`` where they were wrong."""
    right = {number: rows for number, rows in vectors.items() if rows is not None}
    figures |= {f"p{percent}_ms": percentile(latencies_ms, percent / 100) for percent in (50, 95, 99)}
    requests, wrong = len(right), len(vectors) - len(right)
    turn = Turn(requests=requests, inputs=requests * spec.inputs, wrong=wrong, **figures)
    units = sum(int((abs((rows**2).sum(axis=1) - 1) < 1e-3).sum()) for rows in right.values())
    samples = {number: right[number] for number in list(right)[: spec.samples]}
    return RunResult(turn, list(right), samples, unit_vectors=units)


class Workload(NamedTuple):
    """A closed loop: each client sends its next request when the last is answered. ``kinds`` take part."""

    clients: int
    inputs: int
    texts: TextKind
    kinds: frozenset[Kind] = HTTP

    @property
    def name(self) -> str:
        """Clients, inputs of a request, texts."""
        return f"{self.clients} x {self.inputs} {self.texts}"

    def spec(self, endpoint: Endpoint | None, start: int, seconds: float, samples: int = 0) -> RunSpec:
        """Return a run over HTTP, or, without an endpoint, of calls in process of one or of many texts."""
        single = self.clients * self.inputs == 1
        clients = self.clients if endpoint else 1
        inputs = self.inputs if endpoint or single else CALL_INPUTS[self.texts]
        warm_up = max(clients, SINGLE_WARM_UP if inputs == 1 else 0)
        texts = int(TEXTS_PER_S[self.texts] * seconds) + SPARE_TEXTS + self.clients * self.inputs
        requests = max(clients, texts // inputs - warm_up)
        return RunSpec(self.texts, start, warm_up, requests, inputs, clients, seconds, samples, endpoint)


WORKLOADS = (
    Workload(1, 1, "short", HTTP | {"library", "engine"}),
    Workload(16, 1, "short"),
    Workload(64, 1, "short"),
    Workload(8, 32, "short", HTTP | {"library"}),
    Workload(8, 8, "mixed", HTTP | {"library", "engine"}),
    Workload(2, 256, "short", HTTP | {"library", "engine"}),
    Workload(8, 8, "long", HTTP | {"library", "engine"}),
)
"""What models are compared on."""
