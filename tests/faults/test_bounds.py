"""Requests beyond the gateway's limits get a complete error, and harm none that were accepted before."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from embeddings_gateway.config_file import ConfigError, parse
from embeddings_gateway.server.connection import MAX_PIPELINED
from tests.connection import SMALL, START, Connection, sized
from tests.server import eventually, serving

FAKE = '[models.fake]\nbackend = "fake"\n'
NARROW = f"[server]\nmax_connections = 3\n{FAKE}"
LITTLE = f"[server]\nmax_body_bytes = 1000\nmax_buffered_bytes = 1000\n{FAKE}width = 1\n"


def padded(length):
    """Return a good body of so many bytes."""
    return SMALL + b" " * (length - len(SMALL))


def assert_overloaded(answer):
    """Check that a client gets 429 with Retry-After, in the form of every error."""
    received, headers, body = answer
    error = json.loads(body)["error"]
    assert (received, error["code"], error["type"]) == (429, "overloaded", "overloaded_error")
    assert error.keys() == {"message", "type", "param", "code"}
    assert int(headers["retry-after"]) >= 1


@pytest.fixture
def busy(tmp_path):
    """Return a gateway, and as many connections as it may have, with a request on each that is not answered yet."""
    with serving(tmp_path, NARROW) as server, contextlib.ExitStack() as stack:
        os.kill(server.worker(), signal.SIGSTOP)
        connections = [stack.enter_context(Connection(server.url)) for _ in range(3)]
        for connection in connections:
            connection.send(START + sized(SMALL))
        eventually(lambda: not is_served(server))
        yield server, connections
        os.kill(server.worker(), signal.SIGCONT)


def test_too_many_connections(busy):
    """While all are busy, one connection too many is refused and ends; the others go on, and then there is room."""
    server, connections = busy
    with Connection(server.url) as late:
        late.send(START + sized(SMALL))
        received = late.receive()
        assert_overloaded(received)
        assert received[1]["connection"] == "close"
        assert late.ended()
    os.kill(server.worker(), signal.SIGCONT)
    for connection in connections:
        assert connection.receive()[0] == 200
    connections[0].close()
    eventually(lambda: is_served(server))


@pytest.mark.parametrize("path", [b"/livez", b"/readyz", b"/health", b"/metrics"])
def test_health_without_room(busy, path):
    """While all connections are busy, the gateway still answers whoever asks for its health."""
    server, _ = busy
    with Connection(server.url) as probe:
        for _ in range(2):
            probe.send(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path)
            assert probe.receive()[0] in (200, 503)
        probe.send(START + sized(SMALL))
        assert_overloaded(probe.receive())


def is_served(server):
    """Tell whether there is room for a request on a connection of its own."""
    with Connection(server.url) as connection:
        connection.send(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        return connection.receive()[0] == 200


@pytest.fixture
def filled(tmp_path):
    """Return a gateway, and a connection whose request is not whole and holds most of the room for bodies."""
    with serving(tmp_path, LITTLE) as server, Connection(server.url) as first:
        first.send(START + sized(padded(900))[:-300])
        eventually(lambda: not has_room(server))
        yield server, first


def has_room(server):
    """Return whether there is room for a body of half the limit; if not, check the error."""
    with Connection(server.url) as connection:
        connection.send(START + sized(padded(500)))
        received = connection.receive()
    if received[0] != 200:
        assert_overloaded(received)
    return received[0] == 200


def test_too_many_bytes(filled):
    """A body for which there is no room is refused and counted; there is some when others are answered."""
    server, first = filled
    assert 'requests_total{model="",status="429"} 1.0' in httpx.get(f"{server.url}/metrics").text
    first.send(b" " * 300)
    assert first.receive()[0] == 200
    for _ in range(3):
        first.send(START + sized(padded(900)))
        assert first.receive()[0] == 200


def test_room_after_a_client_has_left(filled):
    """What a client that leaves has sent takes no room any more."""
    server, first = filled
    first.close()
    eventually(lambda: has_room(server))


def test_a_body_that_is_not_whole(filled):
    """A client whose body is refused before it is complete gets the error, and its connection ends."""
    server, _ = filled
    with Connection(server.url) as connection:
        connection.send(START + sized(padded(900))[:-1])
        received = connection.receive()
        assert_overloaded(received)
        assert received[1]["connection"] == "close"
        assert connection.ended()


def test_requests_in_a_row(tmp_path):
    """A body that waits behind another request takes room, too, and is refused after the answer to that."""
    with serving(tmp_path, LITTLE) as server, Connection(server.url) as connection:
        os.kill(server.worker(), signal.SIGSTOP)
        connection.send((START + sized(padded(600))) * 2)
        eventually(lambda: not has_room(server))
        os.kill(server.worker(), signal.SIGCONT)
        assert connection.receive()[0] == 200
        received = connection.receive()
        assert_overloaded(received)
        assert connection.ended()


def test_room_for_one_body():
    """Bounds of which one request could never be had are refused."""
    with pytest.raises(ConfigError, match="server: max_buffered_bytes is 1000: set it to max_body_bytes"):
        parse(
            {"server": {"max_buffered_bytes": 1000}, "models": {"m": {"backend": "fake"}}}, Path(), "a test"
        )


def test_a_pipeline(tmp_path):
    """Requests that are sent without waiting for answers get them in order."""
    with serving(tmp_path, FAKE) as server, Connection(server.url) as connection:
        connection.send(b"".join(START + b"x-request-id: %d\r\n" % n + sized(SMALL) for n in range(50)))
        for number in range(50):
            received, headers, _ = connection.receive()
            assert (received, headers["x-request-id"]) == (200, str(number))


def test_a_pipeline_that_is_too_long(tmp_path):
    """Only a bounded number of pipelined requests waits; then the client gets an error."""
    with serving(tmp_path, FAKE) as server, Connection(server.url) as connection:
        os.kill(server.worker(), signal.SIGSTOP)
        connection.send((START + sized(SMALL)) * 1000)
        os.kill(server.worker(), signal.SIGCONT)
        answered = 0
        while (received := connection.receive())[0] == 200:
            answered += 1
        assert answered >= MAX_PIPELINED
        assert_overloaded(received)
        assert connection.ended()
        assert is_served(server)
