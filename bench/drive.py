"""The closed loop of the load generator: every client sends its next request when the last is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter

from bench.connection import Connection

FAILURES_MAX = 20  # of one client in a row: a server that refuses everything is not asked for ever
REASONS_MAX = 3
OK = 200


class Drive:
    """Requests on their way over a number of connections. One object for one run; belongs to one event loop.

    Attributes:
        bodies: of the requests answered with 200, by the request's number.
        latencies_ms: of the same requests.
        failed: requests that were not.
        reasons: why, the first few.
    """

    def __init__(self, host: str, port: int, clients: int) -> None:
        self.bodies: dict[int, bytes] = {}
        self.latencies_ms: list[float] = []
        self.failed = 0
        self.reasons: list[str] = []
        self._host, self._port, self._clients = host, port, clients
        self._requests: Sequence[bytes] = ()
        self._next = 0
        self._deadline = 0.0
        self._sent: dict[Connection, tuple[int, float]] = {}
        self._idle: list[Connection] = []
        self._active = 0
        self._failures: dict[Connection, int] = {}
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Open the connections.

        Raises:
            OSError: nobody listens.
        """
        for _ in range(self._clients):
            self._idle.append(await self._open())

    async def run(self, requests: Sequence[bytes], seconds: float, patience_s: float) -> None:
        """Send requests in turn until they are used up or the seconds have passed; wait for all answers.

        Args:
            requests: whole requests, head and body.
            seconds: how long new requests are sent.
            patience_s: how long the last answers are waited for afterwards.
        """
        self._requests, self._next = requests, 0
        self._done.clear()
        starting, self._idle = self._idle, []
        self._active = len(starting)
        self._deadline = perf_counter() + seconds
        for connection in starting:
            self._send(connection)
        try:
            await asyncio.wait_for(self._done.wait(), seconds + patience_s)
        except TimeoutError:
            self._fail(len(self._sent), "no answer in time")
            self._sent.clear()

    def forget(self) -> None:
        """Start counting anew, after a warm-up."""
        self.bodies, self.latencies_ms, self.reasons, self.failed = {}, [], [], 0
        self._failures.clear()

    def _send(self, connection: Connection) -> None:
        now = perf_counter()
        if self._next >= len(self._requests) or now >= self._deadline:
            self._rest(connection)
            return
        number, self._next = self._next, self._next + 1
        self._sent[connection] = (number, now)
        connection.send(self._requests[number])

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        now = perf_counter()
        if connection not in self._sent:
            return
        number, sent = self._sent.pop(connection)
        if status == OK:
            self.bodies[number] = body
            self.latencies_ms.append(1000 * (now - sent))
            self._failures[connection] = 0
        else:
            self._fail(1, f"status {status}: {body[:200].decode(errors='replace')}")
            if self._tired(connection):
                self._rest(connection)
                return
        self._send(connection)

    def _lost(self, connection: Connection) -> None:
        if self._sent.pop(connection, None) is not None:
            self._fail(1, "the connection was closed instead of an answer")
            task = asyncio.get_running_loop().create_task(self._replace(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif connection in self._idle:
            self._idle.remove(connection)

    async def _replace(self, connection: Connection) -> None:
        with suppress(OSError):
            if not self._tired(connection):
                replacement = await self._open()
                self._failures[replacement] = self._failures.pop(connection)
                self._send(replacement)
                return
        self._leave()

    def _tired(self, connection: Connection) -> bool:
        self._failures[connection] = self._failures.get(connection, 0) + 1
        return self._failures[connection] > FAILURES_MAX

    def _rest(self, connection: Connection) -> None:
        self._idle.append(connection)
        self._leave()

    def _leave(self) -> None:
        self._active -= 1
        if self._active == 0:
            self._done.set()

    def _fail(self, count: int, reason: str) -> None:
        self.failed += count
        if count and reason not in self.reasons and len(self.reasons) < REASONS_MAX:
            self.reasons.append(reason)

    async def _open(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._answered, self._lost), self._host, self._port
        )
        return connection
