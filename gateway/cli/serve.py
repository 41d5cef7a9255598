"""``serve``: the gateway over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from typing import Annotated, TextIO

import msgspec
import typer
import uvloop

from embeddings_gateway import log
from embeddings_gateway.app import create_app
from embeddings_gateway.cli.options import ConfigPath, echo, fail, read_or_fail
from embeddings_gateway.config import Config
from embeddings_gateway.config_file import log_renamed
from embeddings_gateway.http.server import CannotListen, Server
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Registry

OWN_FILES = 128
"""What is left for the gateway itself, of the files it may open: a connection is one, too."""

POLL_S = 0.05


def serve(
    config: ConfigPath = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; else server.host.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port to listen on; else server.port.", min=0, max=65535)
    ] = None,
) -> None:
    """Serve the configured models over HTTP."""
    settings = read_or_fail(config)
    given = {key: value for key, value in {"host": host, "port": port}.items() if value is not None}
    server = msgspec.structs.replace(settings.server, **given)
    log.configure(server.log_format, server.log_level)
    log_renamed(settings)
    forbid_core_files()
    files = allow_many_files()
    max_connections = max(1, min(server.max_connections, files - OWN_FILES))
    server = msgspec.structs.replace(server, max_connections=max_connections)
    settings = msgspec.structs.replace(settings, server=server)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            ended_well = runner.run(run(settings))
        except CannotListen:
            fail(f"cannot listen on {server.host} port {server.port}")
    if not ended_well:
        raise typer.Exit(1)


def allow_many_files() -> int:
    """Raise the limit of open files, often 1024, as far as the system lets, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def forbid_core_files() -> None:
    """Have Linux write none of this process: it would hold users' texts.

    A limit of 1 byte is also one for cores that are piped to a program, where 0 is none (``fs/coredump.c``).
    """
    with contextlib.suppress(ValueError, OSError):  # the limit is 0 already, and may not be raised
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


async def run(config: Config) -> bool:
    """Serve until a signal ends it, or no model can be served; return whether it ended as it should.

    Raises:
        CannotListen: the address is not to be had.
    """
    metrics = Metrics()
    registry = Registry(config, metrics, echo())
    server = Server(create_app(config, registry, metrics), config.server, registry)
    announcing = asyncio.create_task(announce(server, registry, config.source))
    await server.serve()
    announcing.cancel()
    if server.hopeless:
        fail(
            "no model can be served: "
            + "; ".join(f"{name} is failed: {why}" for name, why in server.hopeless.items())
        )
    return not server.force_exit


async def announce(server: Server, registry: Registry, source: str) -> None:
    """Say where it listens, what cannot be served yet, and, once something can be, how to call it."""
    await server.listening.wait()
    names = ", ".join(model.name for model in registry.models)
    say(f"Listening on {server.url}. Loading {names}, as {source} says.")
    await registry.attempted()
    for model in registry.models:
        if model.replicas.state in ("loading", "failed") and not server.hopeless:
            say(f"{model.name} is {model.replicas.state}: {model.replicas.reason}", sys.stderr)
    while not (ready := [model.name for model in registry.models if model.replicas.state == "ready"]):  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    say(f"Serving on {server.url}/v1 (the API is described at {server.url}/docs). Try:")
    say(
        f"curl {server.url}/v1/embeddings -H 'Content-Type: application/json' "
        f"""-d '{{"model": "{ready[0]}", "input": "Hello, world"}}'""",
    )


def say(words: str, to: TextIO = sys.stdout) -> None:
    """Print for whoever started the server; if nobody reads any more, it serves all the same."""
    with contextlib.suppress(OSError):
        print(words, file=to, flush=True)
