"""``serve``: the gateway over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer
import uvicorn
import uvloop

from gateway import log
from gateway.app import create_app
from gateway.cli.options import ConfigPath, echo, err, fail, load_config, out
from gateway.config import Config
from gateway.metrics import Metrics
from gateway.registry import Registry

GRACE_S = 30


def serve(
    config: ConfigPath = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; else server.host.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; else server.port.")] = None,
) -> None:
    """Serve the configured models over HTTP."""
    settings = load_config(config)
    given = {key: value for key, value in {"host": host, "port": port}.items() if value is not None}
    server = msgspec.structs.replace(settings.server, **given)
    settings = msgspec.structs.replace(settings, server=server)
    log.configure(server.log_format, server.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            served = runner.run(run(settings))
        except CannotListen:
            fail(f"cannot listen on {server.host} port {server.port}")
        if not served:
            fail("no model can be served")


class CannotListen(Exception):
    """The address is not to be had. The reason has been logged."""


async def run(config: Config) -> bool:
    """Serve until a signal ends it; return whether there was any model to serve.

    Raises:
        CannotListen: the address is not to be had.
    """
    metrics = Metrics()
    registry = Registry(config, metrics, echo())
    server = Server(
        uvicorn.Config(
            create_app(config, registry, metrics),
            host=config.server.host,
            port=config.server.port,
            http="httptools",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    serving = asyncio.create_task(server.serve())
    announcing = asyncio.create_task(announce(server, registry, config.source))
    await asyncio.wait((serving, announcing), return_when=asyncio.FIRST_COMPLETED)
    hopeless = announcing.done() and not announcing.result()
    if hopeless:
        server.should_exit = True
    await serving
    announcing.cancel()
    return not hopeless


async def announce(server: Server, registry: Registry, source: str) -> bool:
    """Say what is served and how to call it, once it is; return whether anything can be."""
    await server.listening.wait()
    names = ", ".join(model.name for model in registry.models)
    out.print(f"Listening on {server.url}. Loading {names}, as {source} says.", markup=False)
    await registry.attempted()
    for model in registry.models:
        if model.state in ("loading", "failed"):
            err.print(f"{model.name} is {model.state}: {model.reason}", style="red", markup=False)
    ready = next((model for model in registry.models if model.state == "ready"), None)
    if ready is not None:
        out.print(f"Serving on {server.url}/v1 (the API is described at {server.url}/docs). Try:")
        out.print(
            f"curl {server.url}/v1/embeddings -H 'Content-Type: application/json' "
            f"""-d '{{"model": "{ready.name}", "input": "Hello, world"}}'""",
            markup=False,
        )
    return any(model.state != "failed" for model in registry.models)


class Server(uvicorn.Server):
    """uvicorn, ending with status 0 when it is asked to end: the first signal is kind, the second is not.

    Attributes:
        listening: set once connections are accepted.
        url: where they are, as a client on this machine writes it.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.url = ""

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
            self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals without raising them again afterwards, as uvicorn would."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield
