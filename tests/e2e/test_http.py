"""HTTP as it comes over a socket: in pieces, in a row, with offers and bounds, and what is none at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from embeddings_gateway.server.parser import MAX_HEAD_BYTES, MAX_HEADERS
from tests.connection import SMALL, START, Connection, sized
from tests.server import eventually, serving

OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
LARGE = json.dumps({"model": "fake", "input": ["a" * 300] * 500}).encode()


def chunked(body):
    """Return the rest of a request, with the body in chunks of seven bytes."""
    parts = [body[at : at + 7] for at in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def pieces(request, count):
    """Return a request in so many pieces."""
    size = len(request) // count + 1
    return [request[at : at + size] for at in range(0, len(request), size)]


@pytest.fixture
def connect(server):
    """Return a function that opens connections."""
    clients = []

    def connected():
        clients.append(Connection(server.url))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


def assert_vectors(answer, count=1):
    """Check a success."""
    status, headers, body = answer
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert len(json.loads(body)["data"]) == count


def assert_refused(client, status, code):
    """Check that the connection ends with an error in the shape of every other one."""
    received, headers, body = client.receive()
    error = json.loads(body)["error"]
    assert (received, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert error.keys() == {"message", "type", "param", "code"}
    assert headers["connection"] == "close"
    assert client.ended()


@pytest.mark.parametrize("path", [b"/v1/embeddings/", b"/v1/embeddings?a=b", b"/v1/%65mbeddings"])
def test_other_spellings(connect, path):
    """A path that means the same is answered in the same way."""
    for body, status in ((SMALL, 200), (b"{}", 400)):
        client = connect()
        client.send(START.replace(b"/v1/embeddings", path) + sized(body))
        received, headers, _ = client.receive()
        assert received == status
        assert headers["x-request-id"]


@pytest.mark.parametrize("count", [1, 2, 50])
@pytest.mark.parametrize("end", [sized, chunked], ids=["sized", "chunked"])
@pytest.mark.parametrize("offer", [b"", OFFER, OFFER.replace(b"h2c", b"websocket")], ids=["", "h2c", "ws"])
def test_body(connect, offer, end, count):
    """A body arrives whole, however it is framed and cut, with an offer to upgrade or without."""
    client = connect()
    client.send(*pieces(START + offer + end(SMALL), count))
    assert_vectors(client.receive())


@pytest.mark.parametrize("offer", [b"", OFFER], ids=["", "h2c"])
def test_large_body(connect, offer):
    """So does a body of many reads."""
    client = connect()
    client.send(*pieces(START + offer + sized(LARGE), 9))
    assert_vectors(client.receive(), 500)


def test_offer_on_a_connection_that_stays(connect):
    """An offer with the second request changes nothing for it, nor for the third."""
    client = connect()
    for offer in (b"", OFFER, b"", OFFER):
        client.send(START + offer + sized(SMALL))
        assert_vectors(client.receive())


@pytest.mark.parametrize("offer", [b"", OFFER], ids=["", "h2c"])
def test_requests_in_a_row(connect, offer):
    """Requests that are sent without waiting are answered in their order."""
    client = connect()
    bodies = [json.dumps({"model": "fake", "input": ["a"] * count}).encode() for count in (3, 1, 2)]
    ends = (sized, chunked, sized)
    client.send(b"".join(START + offer + end(body) for body, end in zip(bodies, ends, strict=True)))
    for count in (3, 1, 2):
        assert_vectors(client.receive(), count)


def test_an_offer_without_a_body(connect):
    """A request that has no body is answered as well."""
    client = connect()
    client.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n" + OFFER + b"\r\n")
    assert client.receive()[0] == 200


def test_a_response_that_has_no_body(connect):
    """The connection stays after a response that has no body and says no length."""
    client = connect()
    client.send(b"OPTIONS /v1/embeddings HTTP/1.1\r\nhost: x\r\n\r\n")
    status, headers, _ = client.receive()
    assert (status, headers.get("connection")) == (204, None)
    client.send(START + sized(SMALL))
    assert_vectors(client.receive())


@pytest.mark.parametrize(
    "request_",
    [START.replace(b"1.1", b"1.0") + sized(SMALL), START + b"connection: close\r\n" + sized(SMALL)],
)
def test_last_request(connect, request_):
    """HTTP/1.0 and ``Connection: close`` end the connection after the answer."""
    client = connect()
    client.send(request_)
    assert_vectors(client.receive())
    assert client.ended()


def test_expect(connect):
    """A client that expects 100 Continue before its body gets it."""
    client = connect()
    head, body = (START + b"expect: 100-continue\r\n" + sized(SMALL)).split(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n")
    assert client.receive()[0] == 100
    client.send(body)
    assert_vectors(client.receive())


def test_expect_of_an_older_client(connect):
    """HTTP/1.0 has no answer that is not the last, so a client of it is not told to go on."""
    client = connect()
    older = START.replace(b"1.1", b"1.0") + b"expect: 100-continue\r\n"
    client.send((older + sized(SMALL))[: -len(SMALL)])
    other = connect()
    other.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
    assert other.receive()[0] == 200  # when it has answered this, it has read that
    client.send(SMALL)
    assert_vectors(client.receive())
    assert client.ended()


def test_two_lengths(connect):
    """If a body has two lengths the chunks count, and bytes after it are not parsed."""
    client = connect()
    client.send(START + b"content-length: 3\r\n" + chunked(SMALL) + START + sized(SMALL))
    assert_vectors(client.receive())
    assert client.ended()


def test_trailer(connect):
    """What stands after a body is no header of its request."""
    client = connect()
    start = START.replace(b"content-type: application/json\r\n", b"")
    client.send(start + chunked(SMALL)[:-2] + b"content-type: application/json\r\n\r\n")
    assert client.receive()[0] == 415


NOT_HTTP = {
    "words": b"hello\r\n\r\n",
    "tls": bytes.fromhex("16030100f8010000f40303") * 9,
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "proxy": b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/2.0": (START + sized(SMALL)).replace(b"HTTP/1.1", b"HTTP/2.0"),
    "coding": START + b"transfer-encoding: xchunked\r\n\r\n" + SMALL,
    "coding and tab": START + b"transfer-encoding: chunked\t\r\n\r\n0\r\n\r\n",
    "codings": START + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "length": START + b"content-length: x\r\n\r\n",
    "lengths": START + b"content-length: 3\r\n" + sized(SMALL),
    "chunk": START + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP.keys())
@pytest.mark.parametrize("before", [0, 1, 2])
def test_not_http(connect, before, sent):
    """What is no request is refused in JSON, after the answers to the requests before it."""
    client = connect()
    client.send((START + sized(SMALL)) * before + sent)
    for _ in range(before):
        assert_vectors(client.receive())
    assert_refused(client, 400, "invalid_http")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/nothing"])
def test_a_broken_body_is_refused_once(connect, server, path):
    """A request whose body breaks right behind its head gets one answer, and is no error of the gateway's."""
    logged = len(server.log.read_bytes())
    name = f"broken-{path.rpartition('/')[2]}"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\nx-request-id: {name}\r\n"
    client = connect()
    client.send(head.encode() + b"transfer-encoding: chunked\r\n\r\nzzz\r\n")
    assert_refused(client, 400, "invalid_http")
    eventually(lambda: name.encode() in server.log.read_bytes()[logged:])
    other = connect()
    other.send(START + sized(SMALL))
    assert_vectors(other.receive())
    assert b"rror" not in server.log.read_bytes()[logged:]


def test_what_was_answered_is_not_refused_as_well(connect):
    """A body that breaks after its request was answered ends the connection, without a second answer."""
    client = connect()
    head = START.replace(b"application/json", b"text/plain") + b"transfer-encoding: chunked\r\n\r\n"
    client.send(head + b"3\r\nabc\r\n")
    assert client.receive()[0] == 415
    client.send(b"zz\r\n")
    assert client.ended()


TOO_LARGE = {
    "path": b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "one header": START + b"x: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
    "many headers": START + b"x: a\r\n" * (MAX_HEAD_BYTES // 6) + b"\r\n",
    "tiny headers": START + b"a:b\r\n" * MAX_HEADERS + b"\r\n",
    "tiny trailers": START + chunked(SMALL)[:-2] + b"a:b\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    "trailer": START + chunked(SMALL)[:-2] + b"x: " + b"a" * MAX_HEAD_BYTES * 20,
}


@pytest.mark.parametrize("sent", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_too_many_header_bytes(connect, sent):
    """Headers larger than their bound are 431, whether they come whole or in pieces."""
    for count in (1, 7):
        client = connect()
        client.send(*pieces(sent, count))
        assert_refused(client, 431, "headers_too_large")


def test_headers_within_their_bound(connect):
    """Headers up to the bounds are taken."""
    client = connect()
    rest = sized(SMALL)
    client.send(START + b"a:b\r\n" * (MAX_HEADERS - START.count(b":") - 1) + rest)
    assert_vectors(client.receive())
    client.send(START + b"x: " + b"a" * (MAX_HEAD_BYTES - 500) + b"\r\n" + sized(SMALL))
    assert_vectors(client.receive())


def peak_bytes(pid):
    """Return the most memory that a process has had."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10


def test_header_without_end(tmp_path):
    """A header that never ends does not fill the memory."""
    with serving(tmp_path, '[models.fake]\nbackend = "fake"\n') as server:
        client = Connection(server.url)
        before = peak_bytes(server.pid)
        client.send(START + b"x: ")
        try:
            for _ in range(300):
                client.send(b"a" * (1 << 20))
        except OSError:  # the gateway has closed
            pass
        assert peak_bytes(server.pid) - before < 30 << 20
        client.close()


def test_leaving_after_a_refusal(tmp_path):
    """The connection of a client that does not read its refusal is soon closed."""
    with serving(tmp_path, '[models.fake]\nbackend = "fake"\n') as server:
        sockets = Path(f"/proc/{server.pid}/fd")
        before = len(list(sockets.iterdir()))
        client = Connection(server.url)
        client.send(b"hello\r\n\r\n")
        assert client.receive()[0] == 400
        eventually(lambda: len(list(sockets.iterdir())) == before)
        client.close()
