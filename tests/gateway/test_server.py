"""The server ends by itself when there is nothing left to serve, and answers probes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from pathlib import Path

import httpx
import msgspec
import pytest

from embeddings_gateway.app import create_app
from embeddings_gateway.config_file import parse
from embeddings_gateway.http import waiting
from embeddings_gateway.http.protocol import Protocol
from embeddings_gateway.http.server import Server
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Registry

pytestmark = pytest.mark.anyio

MODELS = {"server": {"port": 0}, "models": {"one": {"backend": "fake"}, "other": {"backend": "fake"}}}


@contextlib.asynccontextmanager
async def running(said=MODELS, bounds=None):
    """Serve on the loop of the test; yield the server, the models, and the task that serves."""
    config, metrics = parse(said, Path(), "a test"), Metrics()
    registry = Registry(config, metrics)
    server = Server(create_app(config, registry, metrics), bounds or config.server, registry)
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


BOUNDED = MODELS | {
    "server": {"port": 0, "max_buffered_bytes": 1 << 20, "max_body_bytes": 1 << 20, "send_timeout_s": 0.5},
    "models": {"one": {"backend": "fake", "width": 1024}},
}
LARGE = {"model": "one", "input": ["a"] * 1024}
"""Its answer is more than the system keeps for a client that does not read."""


@contextlib.asynccontextmanager
async def asked(server, body):
    """Ask over a connection of its own that takes little at a time; yield how to read from it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.setblocking(False)
    address = server.servers[0].sockets[0].getsockname()
    await asyncio.get_running_loop().sock_connect(client, address)
    reader, writer = await asyncio.open_connection(sock=client, limit=1 << 16)
    sent = json.dumps(body).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: "
    writer.write(f"{head}{len(sent)}\r\n\r\n".encode() + sent)
    yield reader
    writer.transport.abort()


async def test_an_answer_that_is_read_slowly_counts(monkeypatch):
    """An answer counts among the bytes in memory until its client has taken it, and gives its room back."""
    monkeypatch.setattr(waiting, "SEND_BYTES_PER_S_MIN", 1)
    config = msgspec.structs.replace(parse(BOUNDED, Path(), "a test").server, send_timeout_s=600)
    small = {"model": "one", "input": "a"}
    async with running(BOUNDED, config) as (server, *_), httpx.AsyncClient(base_url=server.url) as client:
        async with asked(server, LARGE) as reader:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head)[1])
            refused = await client.post("/v1/embeddings", json=small)
            assert (refused.status_code, refused.headers["connection"]) == (429, "close")
            body = await reader.readexactly(length)
            assert len(json.loads(body)["data"]) == 1024
        while (await client.post("/v1/embeddings", json=small)).status_code == 429:
            await asyncio.sleep(0)
        async with asked(server, LARGE) as reader:
            await reader.readuntil(b"\r\n\r\n")
        while (await client.post("/v1/embeddings", json=small)).status_code == 429:
            await asyncio.sleep(0)


async def test_an_answer_that_is_taken_in_small_pieces(monkeypatch):
    """Who takes an answer more slowly than it may be taken is cut off, however steadily he does."""
    monkeypatch.setattr(waiting, "SEND_BYTES_PER_S_MIN", 1 << 40)
    async with running(BOUNDED) as (server, *_), asked(server, LARGE) as reader:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := await reader.read(1 << 16):
                taken += len(piece)
                await asyncio.sleep(0.01)
        assert taken < length


async def test_mistake_in_the_parser(monkeypatch):
    """A mistake of ours while a request is parsed is told as one; what the client got wrong is his."""
    async with running() as (server, *_):
        for url, status in ((b"http://other", 400), (b"/livez", 500)):
            if status == 500:
                monkeypatch.setattr(Protocol, "_answer", lambda *_: {}["nobody foresaw this"])
            address = server.servers[0].sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % url)
            assert int((await reader.read()).split()[1]) == status
            writer.close()


class Broken:
    """A connection whose end is a mistake.

    Attributes:
        aborted: whether it has been cut off.
    """

    deadline, send_deadline = 0.0, 0.0

    def __init__(self):
        self.aborted = False
        self.transport = self

    def expire(self, now):
        """See :class:`embeddings_gateway.http.waiting.Waiting`."""
        raise RuntimeError("nobody foresaw this")

    def abort(self):
        """See :class:`asyncio.Transport`."""
        self.aborted = True


def test_sweep():
    """A connection that fails to expire is cut off, and those behind it have their deadlines."""
    broken = [Broken(), Broken()]
    waiting.sweep(broken, 1.0)
    assert [one.aborted for one in broken] == [True, True]


def fail(model, reason):
    """Have a model be one that cannot be served, as if its worker had come back with other files."""
    (worker,) = model.replicas.workers
    worker._to("failed", reason)
