"""``serve``: the gateway over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Annotated, TextIO

import msgspec
import typer
import uvicorn
import uvloop

from gateway import log
from gateway.app import create_app
from gateway.cli.options import ConfigPath, echo, fail, load_config
from gateway.config import Config
from gateway.http.protocol import Protocol
from gateway.metrics import Metrics
from gateway.serving.registry import Registry


def serve(
    config: ConfigPath = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; else server.host.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port to listen on; else server.port.", min=0, max=65535)
    ] = None,
) -> None:
    """Serve the configured models over HTTP."""
    settings = load_config(config)
    given = {key: value for key, value in {"host": host, "port": port}.items() if value is not None}
    server = msgspec.structs.replace(settings.server, **given)
    settings = msgspec.structs.replace(settings, server=server)
    log.configure(server.log_format, server.log_level)
    allow_many_connections()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            served = runner.run(run(settings))
        except CannotListen:
            fail(f"cannot listen on {server.host} port {server.port}")
        if not served:
            fail("no model can be served")


def allow_many_connections() -> None:
    """Raise the limit of open files, often 1024, as far as the system lets: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
            http=Protocol,
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nobody asks where a request came from
            server_header=False,
            timeout_graceful_shutdown=config.server.shutdown_timeout_s,
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
    say(f"Listening on {server.url}. Loading {names}, as {source} says.")
    await registry.attempted()
    for model in registry.models:
        if model.replicas.state in ("loading", "failed"):
            say(f"{model.name} is {model.replicas.state}: {model.replicas.reason}", sys.stderr)
    ready = next((model for model in registry.models if model.replicas.state == "ready"), None)
    if ready is not None:
        say(f"Serving on {server.url}/v1 (the API is described at {server.url}/docs). Try:")
        say(
            f"curl {server.url}/v1/embeddings -H 'Content-Type: application/json' "
            f"""-d '{{"model": "{ready.name}", "input": "Hello, world"}}'""",
        )
    return any(model.replicas.state != "failed" for model in registry.models)


def say(words: str, to: TextIO = sys.stdout) -> None:
    """Print for whoever started the server; if nobody reads any more, it serves all the same."""
    with contextlib.suppress(OSError):
        print(words, file=to, flush=True)


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
