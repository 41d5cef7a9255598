"""What listens: connections, a sweep over their deadlines, and stopping in two steps.

The first signal cancels requests that have not arrived as a whole; those that were accepted are finished.
Meanwhile the server still listens, so that a balancer sees that it is not ready. The second signal ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator

from embeddings_gateway.config import ServerConfig
from embeddings_gateway.log import get_logger
from embeddings_gateway.server.connection import Connection
from embeddings_gateway.server.limits import Limits
from embeddings_gateway.server.request import Application

SWEEP_S = 0.25
MIN_CLOSE_S = 2.0  # in which clients may take their last response, whatever the configuration says
POLL_S = 0.05
BACKLOG = 2048

log = get_logger()


class CannotListen(Exception):
    """The address cannot be bound. The reason has been logged."""


class Server:
    """The gateway's server.

    Args:
        app: what answers.
        config: where it listens, and within which bounds.
        on_drain: is called once, when it begins to stop.

    Attributes:
        url: where it listens, as a client on this machine writes it.
        forced: whether it was told to end at once.
    """

    def __init__(
        self, app: Application, config: ServerConfig, on_drain: Callable[[], object] = lambda: None
    ) -> None:
        self.url = ""
        self.forced = False
        self._app = app
        self._config = config
        self._on_drain = on_drain
        self._limits: Limits[Connection] = Limits(config)
        self._stopping = asyncio.Event()
        self._accepted: list[asyncio.Task[None]] = []
        self._ends_by = 0.0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are bound."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def listen(self) -> None:
        """Bind and listen.

        Raises:
            CannotListen: the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._connection, self._config.host, self._config.port, backlog=BACKLOG
            )
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no host name"
            log.error("cannot listen", reason=reason)
            raise CannotListen from None
        host, port = self.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def serve(self) -> None:
        """Serve until :meth:`stop` is called or a signal comes, and end in order."""
        with self._signals():
            sweeping = asyncio.create_task(self._sweep())
            await self._stopping.wait()
            while not self._drained():  # noqa: ASYNC110 - a bound of time, of tasks and of a signal at once
                await asyncio.sleep(POLL_S)
            await self._close()
            sweeping.cancel()

    def stop(self) -> None:
        """Begin to stop; called again, end at once."""
        if self._stopping.is_set():
            self.forced = True
            return
        self._limits.draining = True
        self._on_drain()
        self._accepted = [one.current.task for one in self._connections() if one.current and one.current.task]
        self._ends_by = time.monotonic() + self._config.shutdown_timeout_s
        for connection in self._connections():
            connection.drain()
        self._stopping.set()

    def _connection(self) -> Connection:
        return Connection(self._app, self._limits)

    def _connections(self) -> list[Connection]:
        return list(self._limits.connections)

    def _drained(self) -> bool:
        """Tell whether nothing is left to wait for: what was accepted is done, or its time is over."""
        is_late = time.monotonic() >= self._ends_by
        return self.forced or is_late or all(task.done() for task in self._accepted)

    async def _close(self) -> None:
        """Stop listening, answer what was not finished, and let clients read it."""
        self._server.close()
        for connection in self._connections():
            connection.shutdown()
        ends_by = max(self._ends_by, time.monotonic() + MIN_CLOSE_S)
        while self._limits.connections and time.monotonic() < ends_by:
            await asyncio.sleep(POLL_S)
            if self.forced:
                break
        for connection in self._connections():
            connection.writer.abort()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop at a signal."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        yield
        for number in numbers:
            loop.remove_signal_handler(number)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._limits.set_date()
            sweep(self._connections(), time.monotonic())


def sweep(connections: Iterable[Connection], now: float) -> None:
    """Act on the deadlines that have passed."""
    for connection in [c for c in connections if c.deadline <= now or c.writer.deadline <= now]:
        try:
            connection.expire(now)
        except Exception:  # a fault of ours: other connections keep their deadlines, and this one ends
            log.exception("connection failed to expire")
            connection.writer.abort()
