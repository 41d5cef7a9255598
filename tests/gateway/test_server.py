"""The server in the process of the test: what it counts, whom it cancels, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import socket
from pathlib import Path

import httpx
import msgspec
import pytest

from embeddings_gateway.app import create_app
from embeddings_gateway.config import ServerConfig
from embeddings_gateway.config_file import parse
from embeddings_gateway.errors import ClientGone
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.server import limits, writer
from embeddings_gateway.server.connection import Connection
from embeddings_gateway.server.limits import SPARE_CONNECTIONS
from embeddings_gateway.server.peer import client_of
from embeddings_gateway.server.server import Server, sweep
from embeddings_gateway.serving.local import LocalModel
from embeddings_gateway.serving.registry import Registry

pytestmark = pytest.mark.anyio

MODELS = {"server": {"port": 0}, "models": {"one": {"backend": "fake"}, "other": {"backend": "fake"}}}


@contextlib.asynccontextmanager
async def running(said=MODELS, bounds=None):
    """Serve on the loop of the test; yield the server, the models, and the metrics."""
    config, metrics = parse(said, Path(), "a test"), Metrics()
    registry = Registry(config, metrics)
    server = Server(create_app(config, registry, metrics), bounds or config.server)
    await server.listen()
    async with registry:
        serving = asyncio.ensure_future(server.serve())
        await registry.first_attempt()
        yield server, registry, metrics
        server.stop()
        await serving


@contextlib.asynccontextmanager
async def serving(answer, bounds=None):
    """Serve a function from requests on the loop of the test; yield the server."""
    server = Server(Application(answer), bounds or ServerConfig(port=0))
    await server.listen()
    task = asyncio.ensure_future(server.serve())
    yield server
    server.stop()
    await task


class Application:
    """An application that is a function."""

    def __init__(self, answer):
        self._answer = answer

    async def __call__(self, request):
        """See :class:`embeddings_gateway.server.connection.Application`."""
        await self._answer(request)

    def refusal(self, error):
        """See :class:`embeddings_gateway.server.connection.Application`."""
        return 400, b"", error.message.encode()


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
    "server": {"port": 0, "max_buffered_bytes": 20 << 20, "max_body_bytes": 1 << 20, "send_timeout_s": 0.5},
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
    address = server.address
    await asyncio.get_running_loop().sock_connect(client, address)
    reader, out = await asyncio.open_connection(sock=client, limit=1 << 16)
    sent = json.dumps(body).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: "
    out.write(f"{head}{len(sent)}\r\n\r\n".encode() + sent)
    yield reader
    out.transport.abort()


async def test_an_answer_that_is_read_slowly_counts(monkeypatch):
    """An answer counts among the bytes in memory until its client has taken it, and gives its room back."""
    monkeypatch.setattr(writer, "MIN_SEND_BYTES_PER_S", 1)
    config = msgspec.structs.replace(parse(BOUNDED, Path(), "a test").server, send_timeout_s=600)
    async with running(BOUNDED, config) as (server, *_), httpx.AsyncClient(base_url=server.url) as client:
        async with asked(server, LARGE) as reader:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head)[1])
            refused = await client.post("/v1/embeddings", json=LARGE)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            body = await reader.readexactly(length)
            assert len(json.loads(body)["data"]) == 1024
        while (await client.post("/v1/embeddings", json=LARGE)).status_code == 429:
            await asyncio.sleep(0)
        async with asked(server, LARGE) as reader:
            await reader.readuntil(b"\r\n\r\n")
        while (await client.post("/v1/embeddings", json=LARGE)).status_code == 429:
            await asyncio.sleep(0)


async def test_an_answer_counts_before_it_exists():
    """The room for an answer is taken before it is computed: of two large ones at once only one has room."""
    async with running(BOUNDED) as (server, *_), httpx.AsyncClient(base_url=server.url) as client:
        answers = await asyncio.gather(*(client.post("/v1/embeddings", json=LARGE) for _ in range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 429]
        assert (await client.post("/v1/embeddings", json=LARGE)).status_code == 200


async def test_connections_of_one_address_are_one_caller(monkeypatch):
    """The queue is fair between addresses, not between connections."""
    callers = []
    original = LocalModel.run

    async def run(model, call):
        callers.append(call.caller)
        return await original(model, call)

    monkeypatch.setattr(LocalModel, "run", run)
    async with running() as (server, *_):
        for address in ("127.0.0.2", "127.0.0.2", "127.0.0.3"):
            transport = httpx.AsyncHTTPTransport(local_address=address)
            async with httpx.AsyncClient(base_url=server.url, transport=transport) as client:
                assert (await client.post("/v1/embeddings", json={"model": "one", "input": "a"})).is_success
    assert callers[0] == callers[1] != callers[2]


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_client_of_an_address(host, client):
    """Addresses that one client can choose among are one client's."""
    assert client_of(host) == client


async def test_small_answers_have_room_beside_large_ones():
    """While large answers that nobody reads take all the room they may, small requests are served."""
    small = {"model": "one", "input": "a"}
    less = LARGE | {"input": ["a"] * 300}
    async with (
        running(BOUNDED) as (server, *_),
        httpx.AsyncClient(base_url=server.url) as client,
        asked(server, LARGE) as reader,
    ):
        await reader.readuntil(b"\r\n\r\n")
        while (await client.post("/v1/embeddings", json=less)).status_code == 200:
            less["input"] += less["input"]
        for _ in range(20):
            assert (await client.post("/v1/embeddings", json=small)).status_code == 200


async def test_an_answer_for_which_there_is_never_room():
    """A request whose answer is larger than all the room is invalid: it would be refused again and again."""
    async with running(BOUNDED) as (server, *_), httpx.AsyncClient(base_url=server.url) as client:
        refused = await client.post("/v1/embeddings", json=LARGE | {"input": ["a"] * 2048})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
        smaller = LARGE | {"input": ["a"] * 2048, "encoding_format": "base64"}
        assert (await client.post("/v1/embeddings", json=smaller)).status_code == 200


async def test_an_answer_that_is_taken_in_small_pieces(monkeypatch):
    """Who takes an answer more slowly than it may be taken is cut off, however steadily he does."""
    monkeypatch.setattr(writer, "MIN_SEND_BYTES_PER_S", 1 << 40)
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
    """A bug while a request is parsed is an internal error; malformed input is the client's error."""
    async with running() as (server, *_):
        for url, status in ((b"http://other", 400), (b"/livez", 500)):
            if status == 500:
                monkeypatch.setattr(Connection, "_start", lambda *_: {}["nobody foresaw this"])
            address = server.address
            reader, out = await asyncio.open_connection(*address)
            out.write(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % url)
            assert int((await reader.read()).split()[1]) == status
            out.close()


class Broken:
    """A connection whose end is a mistake, and its writer.

    Attributes:
        aborted: whether it has been cut off.
    """

    deadline = 0.0

    def __init__(self):
        self.aborted = False
        self.writer = self

    def expire(self, now):
        """See :class:`embeddings_gateway.server.connection.Connection`."""
        raise RuntimeError("nobody foresaw this")

    def abort(self):
        """See :class:`embeddings_gateway.server.writer.Writer`."""
        self.aborted = True


def test_sweep():
    """A connection that fails to expire is cut off, and those behind it have their deadlines."""
    broken = [Broken(), Broken()]
    sweep(broken, 1.0)
    assert [each.aborted for each in broken] == [True, True]


GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n"


async def test_a_client_that_leaves():
    """The work of a client that leaves is cancelled and knows why; that of the others goes on."""
    begun, ended, go_on = asyncio.Queue(), asyncio.Queue(), asyncio.Event()

    async def answer(request):
        begun.put_nowait(request)
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            ended.put_nowait(request)
        else:
            await request.respond(200, b"", [b"ok"])

    async with serving(answer) as server:
        _, leaving = await asyncio.open_connection(*server.address)
        leaving.write(GET)
        gone = await begun.get()
        reader, staying = await asyncio.open_connection(*server.address)
        staying.write(GET)
        await begun.get()
        leaving.close()
        assert await ended.get() is gone
        assert gone.gone
        go_on.set()
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert ended.empty()
        staying.close()


async def test_a_client_that_leaves_in_the_middle_of_its_body():
    """A handler that reads the body of a client that left is cancelled; one that starts later gets ClientGone."""
    outcomes = asyncio.Queue()

    async def answer(request):
        try:
            await request.read(100, math.inf)
        except (asyncio.CancelledError, ClientGone) as error:
            outcomes.put_nowait((type(error), request.gone))

    async with serving(answer) as server:
        for sent in (POST, POST + b"ab"):
            _, out = await asyncio.open_connection(*server.address)
            out.write(sent)
            await out.drain()
            out.close()
            kind, gone = await outcomes.get()
            assert kind in (asyncio.CancelledError, ClientGone)
            assert gone


async def test_a_stop_cancels_what_is_not_done():
    """When the time for stopping is over, work is cancelled, and it may still answer its client."""
    begun = asyncio.Event()

    async def answer(request):
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await request.respond(503, b"", [b"stopped" if not request.gone else b"gone"])

    async with serving(answer, ServerConfig(port=0, shutdown_timeout_s=1)) as server:
        reader, out = await asyncio.open_connection(*server.address)
        out.write(GET)
        await begun.wait()
        server.stop()
        answer_bytes = await reader.read()
        assert answer_bytes.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert answer_bytes.endswith(b"stopped")
        out.close()
        assert not server.forced


async def test_a_response_that_is_cut_off():
    """An application that ends without the end of its response ends the connection without one, too."""

    async def answer(request):
        request.start(200, b"content-length: 10\r\n", 10)
        await request.write(b"half")

    async with serving(answer) as server:
        reader, out = await asyncio.open_connection(*server.address)
        out.write(GET)
        with contextlib.suppress(ConnectionResetError):
            assert (await reader.read()).endswith(b"\r\n\r\nhalf")
        out.close()


async def test_many_pieces_leave_in_turns():
    """Between two pieces of a response the loop turns, also where the client reads as fast as we write."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def answer(request):
        counting = asyncio.ensure_future(count())
        await asyncio.sleep(0)
        before = turns
        await request.respond(200, b"", [b"a", b"b", b"c"])
        counting.cancel()
        outcomes.put_nowait(turns - before)

    outcomes = asyncio.Queue()
    async with serving(answer) as server:
        reader, out = await asyncio.open_connection(*server.address)
        out.write(GET)
        assert await reader.readuntil(b"abc")
        assert await outcomes.get() == 2
        out.close()


async def test_a_response_without_a_length():
    """The end of a response without a length is that of its connection."""

    async def answer(request):
        request.start(200, b"", None)
        await request.write(b"some, ")
        await request.write(b"and more", last=True)

    async with serving(answer) as server:
        reader, out = await asyncio.open_connection(*server.address)
        out.write(GET)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert body == b"some, and more"
        out.close()


@pytest.mark.parametrize("begins", ["before the client leaves", "after"])
async def test_room_of_a_response_whose_client_leaves(begins):
    """A response counts until its client leaves, and no more if its task goes on for a moment."""
    requests, outcomes, go_on = asyncio.Queue(), asyncio.Queue(), asyncio.Event()

    async def answer(request):
        requests.put_nowait(request)
        await go_on.wait()
        await request.respond(200, b"", [b"some bytes"])
        outcomes.put_nowait(request.gone)

    async with serving(answer) as server:
        _, out = await asyncio.open_connection(*server.address)
        out.write(GET)
        await requests.get()
        (connection,) = server._limits.connections
        if begins == "after":
            connection.writer.abort()
            go_on.set()
        else:
            connection.pause_writing()
            go_on.set()
            while not server._limits.bytes:
                await asyncio.sleep(0)
            connection.writer.abort()
            connection.resume_writing()
        assert await outcomes.get()  # the task had gone on when the client was gone
        assert server._limits.bytes == 0
        out.close()


async def connect(server):
    """Return the streams of a connection."""
    return await asyncio.open_connection(*server.address, limit=1 << 20)


async def ask(streams, path="/v1/models"):
    """Return the status of the answer to a request for a path, or ``None`` if the connection is closed."""
    reader, out = streams
    out.write(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None
    await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
    return int(head.split()[1])


async def test_idle_connections_make_room(monkeypatch):
    """The connection that has been idle for the longest time is closed for one that comes when there are too many."""
    monkeypatch.setattr(limits, "LONG_IDLE_S", 0)
    bounds = ServerConfig(port=0, max_connections=3)
    async with running(bounds=bounds) as (server, *_):
        idle = [await connect(server) for _ in range(3)]
        for one in (*idle, idle[0]):
            assert await ask(one) == 200
        late = await connect(server)
        assert await ask(late) == 200
        assert [await ask(one) for one in (idle[0], idle[2], late)] == [200, 200, 200]
        assert await ask(idle[1]) is None
        for _, out in (*idle, late):
            out.close()


async def test_new_connections_are_not_idle():
    """A connection that came just now is not closed for another one: its request may be on the way."""
    bounds = ServerConfig(port=0, max_connections=2)
    async with running(bounds=bounds) as (server, *_):
        both = [await connect(server) for _ in range(2)]
        late = await connect(server)
        assert await ask(late) == 429
        assert [await ask(one) for one in both] == [200, 200]
        for _, out in (*both, late):
            out.close()


async def test_silent_connections_beyond_the_most(monkeypatch):
    """Connections that say nothing keep no probe of the gateway's health out, not even on the spare ones."""
    monkeypatch.setattr(limits, "LONG_IDLE_SPARE_S", 0)
    async with running(bounds=ServerConfig(port=0, max_connections=2)) as (server, *_):
        silent = [await connect(server) for _ in range(2 + 2 * SPARE_CONNECTIONS)]
        probe = await connect(server)
        assert await ask(probe, "/livez") == 200
        assert await ask(probe) == 429
        for _, out in (*silent, probe):
            out.close()


async def test_refused_connections_take_few_files():
    """However many connections come, no more are open than the system has files for; the others are closed at once."""
    config, metrics = parse(MODELS, Path(), "a test"), Metrics()
    bounds = ServerConfig(port=0, max_connections=2)
    app = create_app(config, Registry(config, metrics), metrics)
    server = Server(app, bounds, max_open=2 + SPARE_CONNECTIONS + 3)
    await server.listen()
    serving = asyncio.ensure_future(server.serve())
    many = [await connect(server) for _ in range(2 + SPARE_CONNECTIONS + 10)]
    assert [await ask(one) for one in many[: 2 + SPARE_CONNECTIONS]] == [200] * 2 + [429] * SPARE_CONNECTIONS
    assert [await ask(one) for one in many[2 + SPARE_CONNECTIONS :]] == [429] * 3 + [None] * 7
    for _, out in many:
        out.close()
    server.stop()
    await serving


STRANGE_PATHS = [
    "/docs/assets/a%00b",
    "/docs/assets/" + "a" * 300,
    "/docs/assets/" + "a/" * 2500,
    "/docs/assets/%ED%A0%80",
    "/docs/assets/%FF",
    "/docs/assets/%2e%2e",
    "/docs/assets/swagger_style.css/x",
    "/docs/openapi.txt",
    "/v1/models/%00",
    "/v1/models/%FF",
    "/v1/models/" + "a" * 5000,
    "/v1/models/..%2f..",
    "/%2e%2e/livez",
    "/livez;x",
]


async def test_strange_paths():
    """A path that no file and no model can have is 404 or 405 for every method, and no failure of the gateway."""
    async with running() as (server, *_), httpx.AsyncClient(base_url=server.url) as client:
        for path in STRANGE_PATHS:
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                answer = await client.request(method, httpx.URL(f"{server.url}{path}"))
                assert answer.status_code in (404, 405) or method == "OPTIONS", (method, path)
                assert answer.status_code < 500


@pytest.mark.parametrize(("host", "addresses"), [("::", ["127.0.0.1", "[::1]"]), ("[::1]", ["[::1]"])])
async def test_hosts_of_ipv6(host, addresses):
    """``::`` is every network, those of IPv4 too; an address may have the brackets that it has in a URL."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    async with running({**MODELS, "server": {"port": 0, "host": host}}) as (server, _, _):
        assert server.url.startswith("http://[::1]:")
        for address in addresses:
            async with httpx.AsyncClient(base_url=f"http://{address}:{server.address[1]}") as client:
                assert (await client.get("/livez")).status_code == 200


def has_ipv6():
    """Return whether this machine has a loopback interface of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
