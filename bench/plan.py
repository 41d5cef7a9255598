"""What one side is asked to do in one turn, and what came of it: data for processes of their own."""

from __future__ import annotations

import msgspec

from bench.texts import Kind

SAMPLE_VECTORS = 10
"""The vectors of a request that are handed on."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A turn. A request is an HTTP request or a call in process.

    Attributes:
        kind, start: the texts; the first requests, the warm-up's, have those from number ``start`` on.
        warm_up, requests: how many requests before the clock starts, and at most after.
        inputs: texts of a request.
        clients: how many requests are on their way at a time.
        seconds: how long requests are sent.
        samples: requests whose first vectors are wanted.
        host, port, path: of the server.
        model: the name to ask for.
        base64: ask for that encoding.
        pid: the root of the server's processes; ``None`` where it is not known.
    """

    kind: Kind
    start: int
    warm_up: int
    requests: int
    inputs: int
    clients: int
    seconds: float
    samples: int = 0
    host: str = ""
    port: int = 0
    path: str = ""
    model: str = ""
    base64: bool = False
    pid: int | None = None

    @property
    def texts(self) -> int:
        """How many texts it may use."""
        return (self.warm_up + self.requests) * self.inputs

    def texts_of(self, request: int) -> range:
        """Return the numbers of the texts of a request, counted after the warm-up."""
        first = self.start + (self.warm_up + request) * self.inputs
        return range(first, first + self.inputs)


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What came of a plan.

    Attributes:
        elapsed_s: from the first request to the last answer.
        answered: numbers of the requests that were answered well.
        latencies_ms: of all requests that were answered.
        failed, wrong: requests without an answer; answers that do not fit their request.
        unit: vectors of unit length.
        errors: reasons of failures, the first few.
        cpu_s: processor time of the side's process tree while the clock ran, where it is known.
        client_cpu_s: processor time of the load generator while the clock ran; 0 in process.
        samples: by the number of a request, its first vectors.
    """

    elapsed_s: float
    answered: list[int]
    latencies_ms: list[float]
    failed: int = 0
    wrong: int = 0
    unit: int = 0
    errors: list[str] = []
    cpu_s: float | None = None
    client_cpu_s: float = 0.0
    samples: dict[int, list[list[float]]] = {}
