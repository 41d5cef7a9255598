"""The listening server: accepts connections, checks their deadlines, and stops in two steps.

The first signal cancels requests that have not arrived completely; accepted requests are finished. Meanwhile the
server still listens, so that a balancer sees that it is not ready. The second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from embeddings_gateway.config import ServerConfig
from embeddings_gateway.log import get_logger
from embeddings_gateway.server.address import EVERY_NETWORK, socket_of_every_network, without_brackets
from embeddings_gateway.server.connection import Connection
from embeddings_gateway.server.limits import Limits
from embeddings_gateway.server.request import Application
from embeddings_gateway.server.unix_socket import UnixSocket, socket_path

SWEEP_S = 0.25
MIN_CLOSE_S = 2.0  # the least time for clients to read their last response
POLL_S = 0.05
BACKLOG = 2048
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = get_logger()


class CannotListen(Exception):
    """The address cannot be bound; the message is the reason, which has been logged too."""


class Server:
    """The gateway's server.

    Args:
        app: answers requests.
        config: address and limits.
        max_open: the most connections that may be open, refused ones included.
        on_drain: is called once, when the server begins to stop.

    Attributes:
        url: the address for clients on this machine.
        unix_path: the Unix socket on which to reach it; ``None`` if it listens on a port.
        forced: whether a second signal came.
    """

    def __init__(
        self,
        app: Application,
        config: ServerConfig,
        on_drain: Callable[[], object] = lambda: None,
        *,
        max_open: float = math.inf,
    ) -> None:
        self.url = ""
        self.unix_path = socket_path(config.host)
        self.forced = False
        self._app = app
        self._config = config
        self._on_drain = on_drain
        self._limits: Limits[Connection] = Limits(config, max_open)
        self._stopping = asyncio.Event()
        self._accepted: list[asyncio.Task[None]] = []
        self._stop_deadline = 0.0
        self._unix_socket: UnixSocket | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The bound host and port."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def listen(self) -> None:
        """Bind and listen.

        Raises:
            CannotListen: the address cannot be bound.
        """
        try:
            if self.unix_path is None:
                await self._listen_on_port()
            else:
                await self._listen_on_socket(self.unix_path)
        except (OSError, UnicodeError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else "no host name"
            log.error("cannot listen", reason=reason)
            raise CannotListen(reason) from None

    async def _listen_on_socket(self, path: Path) -> None:
        self._unix_socket = UnixSocket(path, int(self._config.socket_mode, 8))
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._connection, sock=self._unix_socket.socket, backlog=BACKLOG
        )
        self.url = "http://localhost"

    async def _listen_on_port(self) -> None:
        host, port = without_brackets(self._config.host), self._config.port
        create_server = asyncio.get_running_loop().create_server
        if host == EVERY_NETWORK:  # asyncio would listen for IPv6 alone
            sock = socket_of_every_network(port, BACKLOG)
            self._server = await create_server(self._connection, sock=sock, backlog=BACKLOG)
        else:
            self._server = await create_server(self._connection, host, port, backlog=BACKLOG)
        host, port = self.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def serve(self) -> None:
        """Serve until :meth:`stop` is called, then shut down."""
        sweeping = asyncio.create_task(self._sweep())
        await self._stopping.wait()
        while not self._drained():  # noqa: ASYNC110 - waits for tasks, a time limit and a signal
            await asyncio.sleep(POLL_S)
        await self._close()
        sweeping.cancel()

    def stop(self) -> None:
        """Begin to stop. The second call ends the server at once."""
        if self._stopping.is_set():
            self.forced = True
            return
        self._limits.draining = True
        self._on_drain()
        requests = [connection.current for connection in self._connections()]
        self._accepted = [request.task for request in requests if request and request.task]
        self._stop_deadline = time.monotonic() + self._config.shutdown_timeout_s
        for connection in self._connections():
            connection.drain()
        self._stopping.set()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Call :meth:`stop` at SIGINT and SIGTERM.

        The block includes the end of the workers, or a second signal would kill the gateway before them.
        """
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)

    def _connection(self) -> Connection:
        return Connection(self._app, self._limits)

    def _connections(self) -> list[Connection]:
        return list(self._limits.connections)

    def _drained(self) -> bool:
        """Return whether all accepted requests are done, their time is over, or a second signal came."""
        is_late = time.monotonic() >= self._stop_deadline
        return self.forced or is_late or all(task.done() for task in self._accepted)

    async def _close(self) -> None:
        """Stop listening, refuse unfinished requests, and let clients read their responses."""
        self._server.close()
        if self._unix_socket is not None:
            self._unix_socket.remove()
        for connection in self._connections():
            connection.shutdown()
        deadline = max(self._stop_deadline, time.monotonic() + MIN_CLOSE_S)
        while self._limits.connections and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            if self.forced:
                break
        for connection in self._connections():
            connection.writer.abort()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._limits.set_date()
            sweep(self._connections(), time.monotonic())


def sweep(connections: Iterable[Connection], now: float) -> None:
    """Handle the deadlines that have passed."""
    for connection in [c for c in connections if c.deadline <= now or c.writer.deadline <= now]:
        try:
            connection.expire(now)
        except Exception:  # a bug: only this connection ends, the others keep their deadlines
            log.exception("connection failed to expire")
            connection.writer.abort()
