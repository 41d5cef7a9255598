"""A client with many connections slows down another one by its share, not by the number of its connections."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx
import pytest

from tests.server import serving

CONFIG = """
[models.fault]
backend = "fault"
batch_tokens = 2000
seconds_per_token = 0.00005
"""
BATCH_S = 0.1
CONNECTIONS = 200
GREEDY, MODEST = "127.0.0.2", "127.0.0.3"
MAX_RATIO = 3
"""One share of two, and some more for a busy machine."""

BATCHES = 5
"""Of the other client, for which a request waits: one that runs, one that is handed over, and one beside its own."""

pytestmark = pytest.mark.anyio


def client_from(server, address: str) -> httpx.AsyncClient:
    """Return a client whose connections come from an address."""
    limits = httpx.Limits(max_connections=CONNECTIONS)
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=limits)
    return httpx.AsyncClient(base_url=server.url, transport=transport, timeout=120)


async def ask(client: httpx.AsyncClient, inputs: int) -> float:
    """Ask for some inputs; return how many seconds the answer took."""
    began = time.monotonic()
    answer = await client.post("/v1/embeddings", json={"model": "fault", "input": ["a" * 20] * inputs})
    assert answer.status_code == 200
    return time.monotonic() - began


async def ask_for_ever(client: httpx.AsyncClient) -> None:
    """Ask again and again."""
    while True:
        await ask(client, 20)


@pytest.mark.full_size
@pytest.mark.parametrize("inputs", [1, 100])
async def test_many_connections(tmp_path, tell, inputs):
    """Beside 200 connections of one client another client's requests take a few times as long as alone."""
    with serving(tmp_path, CONFIG) as server:
        async with client_from(server, GREEDY) as greedy, client_from(server, MODEST) as modest:
            alone_s = statistics.median([await ask(modest, inputs) for _ in range(10)])
            asking = [asyncio.create_task(ask_for_ever(greedy)) for _ in range(CONNECTIONS)]
            await ask(greedy, 1)
            beside_s = statistics.median([await ask(modest, inputs) for _ in range(10)])
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
    tell(alone_s=alone_s, beside_s=beside_s, ratio=beside_s / alone_s)
    assert beside_s <= MAX_RATIO * alone_s + BATCHES * BATCH_S
