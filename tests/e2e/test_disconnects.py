"""Clients that go away half-way: nobody gets another's vector, and nothing of theirs stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import numpy as np

from embeddings_gateway.app import create_app
from embeddings_gateway.backends.invariance import BATCH_INVARIANCE
from embeddings_gateway.config_file import parse
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.server.server import Server
from embeddings_gateway.serving.local import LocalModel
from embeddings_gateway.serving.registry import Registry
from tests.cosine import lowest_cosine
from tests.e2e.conftest import MINILM
from tests.e2e.minilm import MINILM_PATH  # noqa: F401 - skips where the model is not installed
from tests.texts import WORDS

CLIENTS = 64
LEAVING = 64
ROUNDS = 3


class Running(NamedTuple):
    """A gateway in this process: where it listens, and the model behind it."""

    host: str
    port: int
    model: LocalModel
    metrics: Metrics


@contextlib.asynccontextmanager
async def running(config: str, name: str) -> AsyncIterator[Running]:
    """Serve ``config`` on the loop of the test, so that the test sees the batcher."""
    settings, metrics = parse(tomllib.loads(config), Path.cwd(), "a test"), Metrics()
    registry = Registry(settings, metrics)
    bounds = msgspec.structs.replace(settings.server, port=0)
    server = Server(create_app(settings, registry, metrics), bounds)
    await server.listen()
    async with registry:
        serving = asyncio.create_task(server.serve())
        await registry.first_attempt()
        yield Running(*server.address, registry.find(name).served, metrics)
        server.stop()
        await serving


def request(texts: list[str]) -> bytes:
    """Return a whole HTTP request."""
    body = json.dumps({"model": "minilm", "input": texts}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"content-type: application/json\r\n\r\n" + body


async def leave(at: Running, texts: list[str], source: random.Random) -> None:
    """Send a request, or the beginning of one, and go away."""
    _, writer = await asyncio.open_connection(at.host, at.port)
    sent = request(texts)
    writer.write(sent if source.random() < 0.7 else sent[: source.randrange(len(sent))])
    await writer.drain()
    writer.close()


async def ask(client: httpx.AsyncClient, texts: list[str]) -> np.ndarray:
    """Embed texts, with a check of count and order."""
    answer = await client.post("/v1/embeddings", json={"model": "minilm", "input": texts})
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(texts)))
    return np.array([item["embedding"] for item in data], dtype=np.float32)


def texts_of(source: random.Random, count: int) -> list[str]:
    """Return texts of mixed length, each unlike all others."""
    return [
        f"{source.random()} " + " ".join(source.choices(WORDS, k=source.choice((2, 5, 20, 60))))
        for _ in range(count)
    ]


def test_nobody_gets_anothers_vector_while_clients_leave():
    """64 clients get their own vectors while others disconnect, and the queue is empty afterwards."""

    async def run() -> None:
        async with running(MINILM, "minilm") as at:
            source = random.Random(3)
            theirs = [texts_of(source, 3) for _ in range(CLIENTS)]
            limits = httpx.Limits(max_connections=CLIENTS)
            address = f"http://{at.host}:{at.port}"
            async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
                for _ in range(ROUNDS):
                    leaving = [leave(at, texts_of(source, 8), source) for _ in range(LEAVING)]
                    got = await asyncio.gather(*(ask(client, texts) for texts in theirs), *leaving)
                    for vectors, texts in zip(got, theirs, strict=False):
                        assert len(vectors) == len(texts)
                alone = [await ask(client, [text]) for texts in theirs for text in texts]
                together = np.concatenate(got[:CLIENTS])
                assert lowest_cosine(together, np.concatenate(alone)) >= BATCH_INVARIANCE[at.model.info.dtype]
            await drained(at.model)
            assert repr(at.model._batcher) == "<Batcher 0 rows, 0 tokens, 0 running>"

    asyncio.run(run())


def test_the_jobs_of_a_client_that_left_are_not_run():
    """Jobs that wait when their client goes away are dropped, not computed."""

    async def run() -> None:
        async with running(MINILM, "minilm") as at:
            source = random.Random(4)
            _, writer = await asyncio.open_connection(at.host, at.port)
            writer.write(request(texts_of(source, 2048)))
            await writer.drain()
            async with asyncio.timeout(60):
                while at.model._batcher.idle:
                    await asyncio.sleep(0)
            writer.close()
            await drained(at.model)
            run = at.metrics.registry.get_sample_value(
                "embeddings_gateway_batch_inputs_sum", {"model": "minilm"}
            )
            assert run is not None
            assert run < 2048

    asyncio.run(run())


async def drained(model: LocalModel) -> None:
    """Wait until nothing waits and nothing runs."""
    async with asyncio.timeout(60):
        while not model._batcher.idle:
            await asyncio.sleep(0.01)
