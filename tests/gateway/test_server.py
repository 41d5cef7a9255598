"""The server ends by itself when there is nothing left to serve."""

from __future__ import annotations

import asyncio
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


async def test_no_model_can_be_served_any_more():
    """It goes on while there is a model that has not failed, and ends with the reasons when there is none."""
    config, metrics = parse(MODELS, Path(), "a test"), Metrics()
    registry = Registry(config, metrics)
    server = Server(create_app(config, registry, metrics), config.server, registry)
    serving = asyncio.ensure_future(server.serve())
    await server.listening.wait()
    await registry.attempted()
    fail(registry["one"], "its files have changed")
    async with httpx.AsyncClient(base_url=server.url) as client:
        for _ in range(3):
            answer = await client.post("/v1/embeddings", json={"model": "other", "input": "a"})
            assert answer.status_code == 200
    assert not server.hopeless
    fail(registry["other"], "its files are gone")
    await serving
    assert server.hopeless == {"one": "its files have changed", "other": "its files are gone"}


def fail(model, reason):
    """Have a model be one that cannot be served, as if its worker had come back with other files."""
    (worker,) = model.replicas.workers
    worker.state, worker.reason = "failed", reason
