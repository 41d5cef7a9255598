"""What listens: uvicorn's server, with our protocol, our deadlines and our way to stop.

From the first signal on new requests for embeddings are refused, while those that were accepted are finished
and the gateway still listens, so that a balancer sees that it is not ready. The second one ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import cast

import uvicorn
from litestar.types import ASGIApp

from embeddings_gateway.config import ServerConfig
from embeddings_gateway.http.load import Load
from embeddings_gateway.http.protocol import Protocol
from embeddings_gateway.http.waiting import sweep
from embeddings_gateway.log import get_logger
from embeddings_gateway.serving.registry import Registry, stopping

SWEEP_S = 0.25
CLOSE_S = 2.0
POLL_S = 0.05

log = get_logger()


class CannotListen(Exception):
    """The address is not to be had. The reason has been logged."""


class Server(uvicorn.Server):
    """The gateway's server.

    Args:
        app: what answers.
        server: where it listens, and within which bounds.
        registry: the models, which end with it.

    Attributes:
        listening: set once connections are accepted.
        url: where they are, as a client on this machine writes it.
        hopeless: model -> why it has failed, once all of them have; then the server ends.
        force_exit: whether it has been told to end at once.
    """

    def __init__(self, app: ASGIApp, server: ServerConfig, registry: Registry) -> None:
        protocol = functools.partial(Protocol, load=Load(server, registry))
        super().__init__(
            uvicorn.Config(
                app,
                host=server.host,
                port=server.port,
                http=cast(type[asyncio.Protocol], protocol),
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # nobody asks where a request came from
                server_header=False,
            )
        )
        self.listening = asyncio.Event()
        self.url = ""
        self.hopeless: dict[str, str] = {}
        self._seconds_max = server.shutdown_timeout_s
        self._registry = registry
        self._accepted: set[asyncio.Task[None]] = set()
        self._ends_by = 0.0

    @property
    def connections(self) -> Iterable[Protocol]:
        """Those that are open now."""
        return list(cast(set[Protocol], self.server_state.connections))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind and listen.

        Raises:
            CannotListen: the address is not to be had.
        """
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn would end the process from inside a task
            raise CannotListen from None
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            self._sweeping = asyncio.create_task(self._sweep())
            self.listening.set()

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to end, ten times a second."""
        ending = await super().on_tick(counter) and self._finished()
        models = self._registry.models
        if all(model.state == "failed" for model in models):
            self.hopeless = {model.name: model.reason for model in models}
        return ending or bool(self.hopeless)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, answer what was not finished, let clients read it, and end the workers."""
        self._registry.draining = True
        for server in self.servers:
            server.close()
        for connection in self.connections:
            connection.shutdown()
        await asyncio.sleep(0)  # a task that is cancelled before it begins would answer nothing
        for task in self.server_state.tasks:
            task.cancel()
        ends_by = max(self._ends_by, time.monotonic() + CLOSE_S)
        while self.server_state.connections and not self.force_exit and time.monotonic() < ends_by:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        self._sweeping.cancel()
        await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals without raising them again afterwards, as uvicorn would."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal, whichever it is, end at once."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = self._registry.draining = True
        self._accepted = set(self.server_state.tasks)
        self._ends_by = time.monotonic() + self._seconds_max
        for connection in self.connections:
            connection.drain(stopping())

    def _finished(self) -> bool:
        """Tell whether there is nothing to wait for: what was accepted is done, or its time is over."""
        return (
            self.force_exit
            or time.monotonic() >= self._ends_by
            or all(task.done() for task in self._accepted)
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            sweep(self.connections, time.monotonic())
