"""``serve`` and ``openapi``: the gateway over HTTP, and the description of its API."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import resource
import signal
import sys
from pathlib import Path
from typing import Annotated, TextIO

import msgspec
import typer
import uvloop

from embeddings_gateway import log
from embeddings_gateway.allowed_values import explain_value
from embeddings_gateway.app import create_app, openapi_document
from embeddings_gateway.backends.own_process import forbid_core_files
from embeddings_gateway.background import write_standard_streams_in_background
from embeddings_gateway.cli.options import ConfigPath, fail, forward_stderr, out, read_or_fail
from embeddings_gateway.config import Config, Host, ServerConfig
from embeddings_gateway.config_file import log_renamed
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.server.limits import SPARE_CONNECTIONS
from embeddings_gateway.server.server import STOP_SIGNALS, CannotListen, Server
from embeddings_gateway.server.unix_socket import socket_path
from embeddings_gateway.serving.registry import Registry

OWN_FILES = 128  # open files that the gateway and its workers need; each connection takes one more
MANY_FILES = (65536, 10240)  # limits to try where the maximum is refused; the last is macOS's own
POLL_S = 0.05


def serve(
    config: ConfigPath = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; else server.host.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port to listen on; else server.port.", min=0, max=65535)
    ] = None,
) -> None:
    """Serve the configured models over HTTP."""
    write_standard_streams_in_background()
    settings = read_or_fail(config)
    if host is not None and (problem := explain_value(host, Host, "--host")):
        fail(problem)
    log.configure(settings.server.log_format, settings.server.log_level)
    log_renamed(settings)
    forbid_core_files()
    max_open = raise_file_limit() - OWN_FILES
    server = msgspec.structs.replace(
        settings.server,
        host=settings.server.host if host is None else host,
        port=settings.server.port if port is None else port,
        max_connections=max(1, min(settings.server.max_connections, max_open - 2 * SPARE_CONNECTIONS)),
    )
    settings = msgspec.structs.replace(settings, server=server)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            ended_well = runner.run(run(settings, max_open))
        except CannotListen as error:
            fail(cannot_listen(server, error))
        ignore_signals()
    if not ended_well:
        raise typer.Exit(1)


def cannot_listen(server: ServerConfig, reason: CannotListen) -> str:
    """Return the message for an operator whose address cannot be bound."""
    if socket_path(server.host):
        return f"cannot listen on {server.host}: {reason}: set host to another"
    return f"cannot listen on {server.host} port {server.port}: {reason}: set host or port to another"


def openapi(
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("openapi/openapi.json"),
) -> None:
    """Write the OpenAPI document."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(openapi_document(), indent=2, sort_keys=True) + "\n")
    out.print(f"Wrote {output}.")


def raise_file_limit() -> int:
    """Raise the limit of open files, often 1024, to the system's maximum or what it lets us have; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, *MANY_FILES):
        if limit != resource.RLIM_INFINITY and limit <= soft:
            break
        with contextlib.suppress(ValueError, OSError):  # macOS does not take unlimited, though it names it
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            soft = limit
            break
    return soft if soft != resource.RLIM_INFINITY else sys.maxsize


def ignore_signals() -> None:
    """Ignore signals to stop: all is done, and the exit status says how it went."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


async def run(config: Config, max_open: float = math.inf) -> bool:
    """Serve until a signal comes or no model can be served; return whether shutdown was orderly.

    Args:
        config: what to serve.
        max_open: the most connections that may be open, refused ones included.

    Raises:
        CannotListen: the address cannot be bound.
    """
    metrics = Metrics()
    registry = Registry(config, metrics, forward_stderr())

    def drain() -> None:
        registry.draining = True

    server = Server(create_app(config, registry, metrics), config.server, drain, max_open=max_open)
    gc.collect()
    gc.freeze()  # all that stays; looking through it for garbage would hold the event loop for 40 ms
    await server.listen()
    with server.signals():
        async with registry:
            announcing = asyncio.create_task(announce(server, registry, config.source))
            watching = asyncio.create_task(stop_if_all_failed(server, registry))
            await server.serve()
            announcing.cancel()
    if watching.done():
        fail("no model can be served: " + "; ".join(watching.result()))
    watching.cancel()
    return not server.forced


async def stop_if_all_failed(server: Server, registry: Registry) -> list[str]:
    """Stop the server once all models have failed; return the reasons."""
    while not (reasons := failures(registry)):  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    server.stop()
    return reasons


def failures(registry: Registry) -> list[str]:
    """Return why each model failed; empty unless all have."""
    if any(model.state != "failed" for model in registry.models):
        return []
    return [f"{model.name} is failed: {model.reason}" for model in registry.models]


async def announce(server: Server, registry: Registry, source: str) -> None:
    """Print the address, the models that are not ready, and a first request once a model is ready."""
    names = ", ".join(model.name for model in registry.models)
    place = f"unix:{server.unix_path}" if server.unix_path else server.url
    print_line(f"Listening on {place}. Loading {names}, as {source} says.")
    await registry.first_attempt()
    if failures(registry):
        return
    for model in registry.models:
        if model.state in ("loading", "failed"):
            print_line(f"{model.name} is {model.state}: {model.reason}", to=sys.stderr)
    while not (ready := [model.name for model in registry.models if model.state == "ready"]):  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    print_line(f"Serving on {server.url}/v1 (the API is described at {server.url}/docs). Try:")
    option = f"--unix-socket {server.unix_path} " if server.unix_path else ""
    print_line(
        f"curl {option}{server.url}/v1/embeddings -H 'Content-Type: application/json' "
        f"""-d '{{"model": "{ready[0]}", "input": "Hello, world"}}'"""
    )


def print_line(line: str, to: TextIO | None = None) -> None:
    """Print a line for the person who started the server, on standard output by default."""
    print(line, file=to, flush=True)
