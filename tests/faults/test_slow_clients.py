"""Clients that send slowly, or nothing, or do not take their answer: none keeps its connection."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.connection import SMALL, START, Connection, sized
from tests.server import eventually, serving

CONFIG = """
[server]
{bounds}

[models.fake]
backend = "fake"
width = 4096
"""
BOUNDS = "idle_timeout_s = {idle}\nhead_timeout_s = {head}\nbody_timeout_s = {body}\nsend_timeout_s = {send}"
LONG = 600
MANY = 400
"""Inputs whose answer, 30 MB, is larger than all buffers on its way."""
ANSWERS = range(1, 80, 3)
"""How many answers: so many that the last one ends somewhere in each of the buffers on its way."""


@pytest.fixture
def serve(tmp_path):
    """Return a function that serves with these deadlines, and all others long."""

    def begin(**short):
        seconds = dict.fromkeys(("idle", "head", "body", "send"), LONG) | short
        return serving(tmp_path, CONFIG.format(bounds=BOUNDS.format(**seconds)))

    return begin


def assert_late(connection):
    """Check that a slow client gets 408, and that its connection ends."""
    received, headers, body = connection.receive()
    error = json.loads(body)["error"]
    assert (received, error["code"], error["type"]) == (408, "request_timeout", "invalid_request_error")
    assert error.keys() == {"message", "type", "param", "code"}
    assert headers["connection"] == "close"
    assert connection.ended()


def assert_served(connection, count=1):
    """Check a success."""
    received, _, body = connection.receive()
    assert received == 200
    assert len(json.loads(body)["data"]) == count


def sockets(server):
    """Return how many files the gateway has open, of which each connection is one."""
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def test_silence(serve):
    """A connection on which nothing is sent, or nothing more, is closed without a word."""
    with serve(idle=2) as server, contextlib.ExitStack() as stack:
        silent, blank, served = (stack.enter_context(Connection(server.url)) for _ in range(3))
        blank.send(b"\r\n\r\n")
        served.send(START + sized(SMALL))
        assert_served(served)
        assert silent.ended()
        assert blank.ended()
        assert served.ended()


@pytest.mark.parametrize("before", [0, 1])
def test_slow_head(serve, before):
    """A head that is not whole in time is 408, however steadily it comes, also after another request."""
    with serve(head=0.5) as server, Connection(server.url) as connection:
        for _ in range(before):
            connection.send(START + sized(SMALL))
            assert_served(connection)
        connection.drip(START + b"x: " + b"a" * 10_000)
        assert_late(connection)


@pytest.mark.parametrize(
    "end", [b"content-length: 100000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n186A0\r\n"]
)
def test_slow_body(serve, end):
    """So is a body, and the connection is closed even if the client goes on sending."""
    with serve(body=0.5) as server, Connection(server.url) as connection:
        connection.send(START + end)
        connection.drip(b"{" + b" " * 10_000)
        assert_late(connection)
        counted = 'requests_total{model="",status="408"} 1.0'
        assert counted in httpx.get(f"{server.url}/metrics").text


def test_a_body_that_was_asked_for(serve):
    """A client that got 100 Continue and sends nothing gets 408 as well."""
    with serve(body=0.5) as server, Connection(server.url) as connection:
        connection.send(START + b"expect: 100-continue\r\n" + sized(SMALL)[: -len(SMALL)])
        assert connection.receive()[0] == 100
        assert_late(connection)


def test_half_a_request_behind_another(serve):
    """While a request is answered the next one has time; afterwards as much as any."""
    with serve(head=2) as server, Connection(server.url) as connection, Connection(server.url) as clock:
        os.kill(server.worker(), signal.SIGSTOP)
        half = len(START) // 2
        connection.send(START + sized(SMALL) + START[:half])
        clock.send(START[:half])
        assert_late(clock)
        os.kill(server.worker(), signal.SIGCONT)
        assert_served(connection)
        connection.send(START[half:] + sized(SMALL))
        assert_served(connection)
        connection.send(START[:half])
        assert_late(connection)


@pytest.mark.parametrize("last", [b"", b"connection: close\r\n"])
def test_an_answer_that_nobody_takes(serve, last):
    """A client that does not read what it is sent is not waited for; one that does gets all of it."""
    body = json.dumps({"model": "fake", "input": ["a"] * MANY}).encode()
    with serve(send=1) as server:
        before = sockets(server)
        with Connection(server.url) as connection, Connection(server.url) as other:
            connection.send(START + last + sized(body))
            eventually(lambda: sockets(server) == before + 2)
            eventually(lambda: sockets(server) == before + 1)
            other.send(START + sized(body))
            assert_served(other, MANY)


def test_an_end_before_the_answers_are_taken(serve):
    """A client that sends no more, and takes no more, is done with, however much of its answers has left."""
    body = json.dumps({"model": "fake", "input": ["a"] * 2, "encoding_format": "base64"}).encode()
    with serve(send=1) as server, contextlib.ExitStack() as stack:
        before = sockets(server)
        for answers in ANSWERS:
            connection = stack.enter_context(Connection(server.url, buffer_bytes=4096))
            connection.send((START + sized(body)) * answers)
            connection.socket.shutdown(socket.SHUT_WR)
        eventually(lambda: sockets(server) > before)
        eventually(lambda: sockets(server) == before)


def test_a_large_body_that_is_refused(serve):
    """A client that sends all of a body that is too large before it reads anything gets its answer."""
    with serve() as server, Connection(server.url) as connection:
        connection.send(START + sized(b" " * (64 << 20)))
        received, headers, body = connection.receive()
        assert (received, json.loads(body)["error"]["code"]) == (413, "request_too_large")
        assert headers["connection"] == "close"
        assert connection.ended()
