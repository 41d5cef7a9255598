"""The server ends by itself when there is nothing left to serve, and answers probes."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.config_file import parse
from gateway.http.server import Server
from gateway.metrics import Metrics
from gateway.serving.registry import Registry

pytestmark = pytest.mark.anyio

MODELS = {"server": {"port": 0}, "models": {"one": {"backend": "fake"}, "other": {"backend": "fake"}}}


@contextlib.asynccontextmanager
async def running():
    """Serve on the loop of the test; yield the server, the models, and the task that serves."""
    config, metrics = parse(MODELS, Path(), "a test"), Metrics()
    registry = Registry(config, metrics)
    server = Server(create_app(config, registry, metrics), config.server, registry)
    serving = asyncio.ensure_future(server.serve())
    await server.listening.wait()
    await registry.attempted()
    yield server, registry, serving
    server.should_exit = True
    await serving


async def test_no_model_can_be_served_any_more():
    """It goes on while there is a model that has not failed, and ends with the reasons when there is none."""
    async with running() as (server, registry, serving), httpx.AsyncClient(base_url=server.url) as client:
        fail(registry["one"], "its files have changed")
        for _ in range(3):
            answer = await client.post("/v1/embeddings", json={"model": "other", "input": "a"})
            assert answer.status_code == 200
        assert not server.hopeless
        fail(registry["other"], "its files are gone")
        await serving
        assert server.hopeless == {"one": "its files have changed", "other": "its files are gone"}


async def test_probes_without_a_body():
    """A probe that asks for the head alone gets that of the whole answer, and no body."""
    async with running() as (server, registry, _), httpx.AsyncClient(base_url=server.url) as client:
        for path in ("/livez", "/readyz", "/health"):
            whole, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(whole.content))
        registry.draining = True
        assert (await client.head("/readyz")).status_code == 503


def fail(model, reason):
    """Have a model be one that cannot be served, as if its worker had come back with other files."""
    (worker,) = model.replicas.workers
    worker.state, worker.reason = "failed", reason
