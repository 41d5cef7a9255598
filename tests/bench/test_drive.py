"""The closed loop of the load generator, against a server in the same loop."""

from __future__ import annotations

import asyncio

import pytest

from bench.connection import dechunk
from bench.drive import FAILURES_MAX, Drive
from tests.bench.tiny_server import listening, plain

LONG_S = 600.0
REQUESTS = [b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n%d" % number for number in range(8)]


def driven(answer, clients=2, requests=REQUESTS, seconds=LONG_S):
    """Send the requests to a server that answers so; return the drive."""

    async def run():
        async with listening(answer) as port:
            drive = Drive("127.0.0.1", port, clients)
            await drive.connect()
            await drive.run(requests, seconds, 0.0)
            return drive

    return asyncio.run(run())


def test_every_request_is_answered_once():
    """All requests are sent, and their answers kept by their numbers, with a latency each."""
    drive = driven(lambda number: plain(b"%d" % number), clients=1)
    assert drive.bodies == {number: b"%d" % number for number in range(8)}
    assert len(drive.latencies_ms) == 8
    assert drive.failed == 0


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-", b"Length: 5\r\n\r\nhe", b"llo"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r", b"\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n"],
    ],
)
def test_an_answer_comes_in_pieces(pieces):
    """Wherever an answer is cut, and whether its length is told or it comes in chunks, it is read whole."""
    assert driven(lambda _: pieces).bodies == dict.fromkeys(range(8), b"hello")


def test_chunks_are_joined():
    """A chunk's size is hexadecimal, and may have extensions."""
    assert dechunk(b"a;x=y\r\n0123456789\r\n1\r\n!\r\n0\r\n\r\n") == b"0123456789!"


def test_other_statuses_are_failures():
    """A refusal is counted with its reason, and has no latency."""
    drive = driven(lambda number: plain(b"no", 503) if number % 2 else plain(b"yes"))
    assert len(drive.bodies) == len(drive.latencies_ms) == 4
    assert drive.failed == 4
    assert drive.reasons == ["status 503: no"]


def test_a_closed_connection_fails_its_request_alone():
    """The client comes back with a new connection for the next request."""
    drive = driven(lambda number: None if number == 3 else plain(b"yes"))
    assert drive.failed == 1
    assert len(drive.bodies) == 7
    assert drive.reasons == ["the connection was closed instead of an answer"]


def test_a_server_that_fails_always_is_given_up():
    """Each client stops after a bounded number of failures in a row."""
    drive = driven(lambda _: None, requests=REQUESTS * 100)
    assert drive.failed == 2 * (FAILURES_MAX + 1)


def test_what_is_not_answered_in_time_has_failed():
    """When the time is up, what is on its way counts as failed, and nothing more is sent."""
    drive = driven(lambda _: [b""], seconds=1.0)
    assert drive.failed == 2
    assert drive.reasons == ["no answer in time"]


def test_nobody_listens():
    """A server that is not there is an error."""

    async def run():
        async with listening(plain) as port:
            pass
        await Drive("127.0.0.1", port, 1).connect()

    with pytest.raises(OSError, match=r"refused|[Cc]onnect"):
        asyncio.run(run())
