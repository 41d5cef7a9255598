"""Clients that close their sending side and go on reading, and those that are gone, which looks the same."""

from __future__ import annotations

import asyncio
import contextlib
import math

import pytest

from embeddings_gateway.errors import ClientGone
from embeddings_gateway.server import connection
from tests.gateway.test_server import GET, serving

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def half_closed(server, sent):
    """Send requests and close the sending side; yield what reads the answers."""
    reader, out = await asyncio.open_connection(*server.address)
    out.write(sent)
    out.write_eof()
    yield reader
    out.close()


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_responses(monkeypatch, count):
    """A client that closes its sending side right after its requests gets every response, then the end."""
    monkeypatch.setattr(connection, "HALF_CLOSE_S", math.inf)

    async def answer(request):
        await asyncio.sleep(0)
        await request.respond(200, b"", [b"first,", b"x" * (1 << 20)])

    async with serving(answer) as server, half_closed(server, GET * count) as reader:
        received = await reader.read()
        assert received.count(b"HTTP/1.1 200 OK") == count
        assert received.count(b"x") == count << 20
        assert received.count(b"connection: close") == 1


@pytest.mark.parametrize("name", ["HALF_CLOSE_S", "MAX_HALF_CLOSE_S"])
async def test_work_is_cancelled(monkeypatch, name):
    """One that closes it later, or whose response does not begin soon, is gone, and its work is cancelled."""
    monkeypatch.setattr(connection, "HALF_CLOSE_S", math.inf)
    monkeypatch.setattr(connection, name, 0)
    cancelled = asyncio.Queue()

    async def answer(request):
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.put_nowait(request.gone)

    async with serving(answer) as server, half_closed(server, GET) as reader:
        assert await cancelled.get()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


async def test_large_requests(monkeypatch):
    """The work for a large request is cancelled at once: it is not done for a client that may be gone."""
    monkeypatch.setattr(connection, "HALF_CLOSE_S", math.inf)
    monkeypatch.setattr(connection, "MAX_HALF_CLOSE_S", math.inf)
    cancelled = asyncio.Queue()

    async def answer(request):
        try:
            await request.read(1 << 20, math.inf)
            await asyncio.get_running_loop().create_future()
        except (asyncio.CancelledError, ClientGone):
            cancelled.put_nowait(request.gone)

    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (1 << 20)
    async with serving(answer) as server, half_closed(server, head + bytes(1 << 20)):
        assert await cancelled.get()


async def test_a_client_that_is_gone(monkeypatch):
    """One that looks half closed, and is gone, is noticed once the response is written."""
    monkeypatch.setattr(connection, "HALF_CLOSE_S", math.inf)
    begun, go_on, outcomes = asyncio.Event(), asyncio.Event(), asyncio.Queue()

    async def answer(request):
        begun.set()
        await go_on.wait()
        try:
            await request.respond(200, b"", [b"x" * (1 << 20)] * 100)
        except asyncio.CancelledError:
            outcomes.put_nowait(request.gone)

    async with serving(answer) as server:
        _, out = await asyncio.open_connection(*server.address)
        out.write(GET)
        await begun.wait()
        out.close()
        await out.wait_closed()
        go_on.set()
        assert await outcomes.get()
