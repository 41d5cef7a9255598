"""The load generator: clients in a closed loop over HTTP, in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import gc
import re
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import msgspec
import numpy as np
import uvloop

from bench.engines import EngineProcess
from bench.machine import ProcessTree
from bench.run_spec import Endpoint, RunResult, RunSpec, Vectors, run_result
from bench.texts import make_texts

PATIENCE_S = 120.0
FAILURES_MAX = 20  # of one client in a row: a server that refuses everything is given up
REASONS_MAX = 3
OK = 200
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
BUFFER = 2**24

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Generator:
    """What runs in the process."""

    def run(self, spec: RunSpec, endpoint: Endpoint) -> RunResult:
        """Build the requests, send them while the clock runs, and check the answers afterwards."""
        requests = build_requests(spec, endpoint)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            loop, (wall_s, client_s, tree_s, root_s) = runner.run(_drive(spec, endpoint, requests))
        vectors = {number: decode_vectors(body, spec.inputs) for number, body in sorted(loop.bodies.items())}
        figures = {"elapsed_s": wall_s, "cpu_s": tree_s if endpoint.pid else None, "client_cpu_s": client_s}
        failures = {"failed": loop.failed, "errors": loop.reasons}
        result = run_result(spec, vectors, loop.latencies_ms, **figures, **failures)
        result.root_cpu_s = root_s
        return result


def generate(spec: RunSpec) -> RunResult:
    """Carry out a run over HTTP in a process of its own; raises RunError if nobody listens."""
    with closing(EngineProcess(Generator, settings={})) as generator:
        result: RunResult = generator.call("run", spec, spec.endpoint)
        return result


def build_requests(spec: RunSpec, endpoint: Endpoint) -> list[bytes]:
    """Return whole requests, head and body, the warm-up's first."""
    texts = make_texts(spec.kind, range(spec.start, spec.start + spec.texts))
    fields = {"model": endpoint.model, **({"encoding_format": "base64"} if endpoint.base64 else {})}
    url = urlsplit(endpoint.url)
    head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
    requests = []
    for first in range(0, len(texts), spec.inputs):
        body = msgspec.json.encode({**fields, "input": texts[first : first + spec.inputs]})
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return requests


async def _drive(spec: RunSpec, endpoint: Endpoint, requests: list[bytes]) -> tuple[ClosedLoop, list[float]]:
    """Warm up and run; return the answers, and the time by each of the clocks below."""
    url = urlsplit(endpoint.url)
    server = ProcessTree(endpoint.pid or 0)

    def clocks() -> list[float]:
        return [time.perf_counter(), time.process_time(), server.cpu_s(), server.root_cpu_s()]

    loop = ClosedLoop(url.hostname or "", url.port or 80)
    await loop.connect(spec.clients)
    await loop.run(requests[: spec.warm_up], PATIENCE_S, PATIENCE_S)
    gc.collect()
    gc.disable()
    began = clocks()
    await loop.run(requests[spec.warm_up :], spec.seconds, PATIENCE_S)
    return loop, [end - begin for begin, end in zip(began, clocks(), strict=True)]


class ClosedLoop:
    """Clients with a keep-alive connection each; a client sends its next request when its last is answered.

    ``bodies``, by the request's number, and ``latencies_ms`` are of the requests that were answered with 200;
    ``failed`` counts the others, with the first few ``reasons``.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._connections: list[Streams] = []

    async def connect(self, clients: int) -> None:
        """Open the connections; raises ``OSError`` if nobody listens."""
        self._connections = [await self._open() for _ in range(clients)]

    async def run(self, requests: list[bytes], seconds: float, patience_s: float) -> None:
        """Send requests, head and body, until they or the seconds are used up; wait for the last answers."""
        self.bodies: dict[int, bytes] = {}
        self.latencies_ms: list[float] = []
        self.failed, self.reasons = 0, list[str]()
        queue, deadline = enumerate(requests), time.perf_counter() + seconds
        tasks = [asyncio.ensure_future(self._send(i, queue, deadline)) for i in range(len(self._connections))]
        _, late = await asyncio.wait(tasks, timeout=seconds + patience_s)
        for task in late:
            self._fail("no answer in time")
            task.cancel()

    async def _send(self, client: int, queue: Iterator[tuple[int, bytes]], deadline: float) -> None:
        failures = 0
        while failures <= FAILURES_MAX and time.perf_counter() < deadline and (numbered := next(queue, None)):
            number, request = numbered
            failures += 1
            try:
                sent = time.perf_counter()
                status, body = await _exchange(self._connections[client], request)
                if status == OK:
                    self.latencies_ms.append(1000 * (time.perf_counter() - sent))
                    self.bodies[number] = body
                    failures = 0
                else:
                    self._fail(f"status {status}: {body[:200].decode(errors='replace')}")
            except (OSError, EOFError):
                self._fail("the connection was closed instead of an answer")
                try:
                    self._connections[client] = await self._open()
                except OSError:
                    return

    def _fail(self, reason: str) -> None:
        self.failed += 1
        if reason not in self.reasons and len(self.reasons) < REASONS_MAX:
            self.reasons.append(reason)

    async def _open(self) -> Streams:
        return await asyncio.open_connection(self._host, self._port, limit=BUFFER)


async def _exchange(connection: Streams, request: bytes) -> tuple[int, bytes]:
    """Send a request; return the status and the body, which has a length or comes in chunks."""
    reader, writer = connection
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    body, size = b"", -1
    if length := LENGTH.search(head):
        body = await reader.readexactly(int(length[1]))
    elif CHUNKED.search(head):
        while size:
            size = int((await reader.readline()).partition(b";")[0], 16)
            body += (await reader.readexactly(size + 2))[:size]
    return int(head[9:12]), body


def decode_vectors(body: bytes, inputs: int) -> Vectors | None:
    """Return an answer's vectors, ``[inputs, dimensions]``.

    ``None`` if there are not as many as inputs, in order, finite, not zero and all of one width.
    """
    try:
        items = msgspec.json.decode(body)["data"]
        vectors = np.stack([_decode_vector(item["embedding"]) for item in items])
        ordered = [item["index"] for item in items] == list(range(inputs))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):  # other widths are ValueErrors
        return None
    return vectors if ordered and vectors.any(axis=1).all() and np.isfinite(vectors).all() else None


def _decode_vector(embedding: str | list[float]) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4")
    return np.array(embedding, dtype=np.float32)


def cosines(left: Vectors, right: Vectors) -> Vectors:
    """Return the cosine of each row of the left with each row of the right, in double precision."""
    units = [rows / np.linalg.norm(rows.astype(float), axis=1, keepdims=True) for rows in (left, right)]
    return units[0] @ units[1].T  # type: ignore[no-any-return]
