"""A client that says how long its request may take is answered in that time, whatever takes so long."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.connection import SMALL, START, Connection, sized
from tests.server import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return a gateway that by itself gives requests more time than any test."""
    with serving(tmp_path_factory.mktemp("server"), '[models.fake]\nbackend = "fake"\n') as running:
        yield running


@pytest.fixture
def connection(server):
    """Return a connection."""
    with Connection(server.url) as one:
        yield one


def within(ms):
    """Return the head of a request that has so many milliseconds."""
    return START + b"x-request-timeout-ms: %b\r\n" % ms


def assert_error(connection, status, code, param):
    """Check an error; return the headers."""
    received, headers, body = connection.receive()
    error = json.loads(body)["error"]
    assert (received, error["code"], error["param"]) == (status, code, param)
    return headers


@pytest.mark.parametrize("ms", [b"60000", b"9" * 400])
def test_enough(connection, ms):
    """A request that is done in its time is answered."""
    connection.send(within(ms) + sized(SMALL))
    assert connection.receive()[0] == 200


def test_slow_model(server, connection):
    """One that its model does not answer is 504, and the connection stays."""
    worker = server.worker()
    os.kill(worker, signal.SIGSTOP)
    connection.send(within(b"100") + sized(SMALL))
    assert_error(connection, 504, "timeout", None)
    os.kill(worker, signal.SIGCONT)
    connection.send(START + sized(SMALL))
    assert connection.receive()[0] == 200


@pytest.mark.parametrize("body", [b"", SMALL[:-1]])
def test_slow_body(connection, body):
    """The time for receiving the body counts, and the connection of one that is not whole ends."""
    connection.send(within(b"100") + sized(SMALL)[: -len(SMALL)] + body)
    assert assert_error(connection, 504, "timeout", None)["connection"] == "close"
    assert connection.ended()


@pytest.mark.parametrize("ms", [b"0", b"-1", b"1.5", b"soon", b"\xff", b""])
def test_no_time(connection, ms):
    """What is no number of milliseconds is refused by name, and the connection stays."""
    connection.send(within(ms) + sized(SMALL))
    assert_error(connection, 400, None, "x-request-timeout-ms")
    connection.send(START + sized(SMALL))
    assert connection.receive()[0] == 200
