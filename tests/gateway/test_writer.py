"""What a connection writes: joined, bounded in time, and never lost at the end."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from embeddings_gateway.server.writer import MAX_JOINED_BYTES, Writer

pytestmark = pytest.mark.anyio


class Notebook:
    """Writes down what a transport is told to do.

    Attributes:
        calls: in their order.
        closing: whether nothing may be written any more.
    """

    def __init__(self) -> None:
        self.calls = []
        self.closing = False

    def write(self, data):
        """Note what leaves."""
        self.calls.append(data)

    def writelines(self, parts):
        """Note what leaves together."""
        self.calls.append(b"".join(parts))

    def write_eof(self):
        """Note it."""
        self.calls.append("eof")

    def close(self):
        """Note it."""
        self.calls.append("close")
        self.closing = True

    def is_closing(self):
        """Tell whether it has been closed."""
        return self.closing


@pytest.fixture
def transport():
    """Return what stands below the writer."""
    return Notebook()


@pytest.fixture
def writer(transport):
    """Return a writer whose client has ten seconds."""
    return Writer(transport, 10)


@pytest.mark.parametrize("length", [4, MAX_JOINED_BYTES])
def test_head_and_body_leave_together(writer, transport, length):
    """A head and the first part of its body are one write, whatever their size."""
    writer.write(b"head", bytes(length))
    assert transport.calls == [b"head" + bytes(length)]


def test_nothing_is_written_after_the_end(writer, transport):
    """What comes after the way out was closed is dropped."""
    writer.write(b"last")
    writer.half_close()
    assert writer.closing
    writer.write(b"late")
    assert transport.calls == [b"last", "eof"]


def test_a_lost_connection_is_not_written_to(writer, transport):
    """What comes after the connection has gone is dropped."""
    transport.closing = True
    writer.write(b"late")
    assert transport.calls == []


@pytest.mark.parametrize("end", [Writer.half_close, Writer.close])
def test_an_end_is_bounded(writer, end):
    """A client has the time of any write for what was written before the end."""
    assert writer.deadline == math.inf
    end(writer)
    assert writer.deadline <= time.monotonic() + 10


def test_a_pause_is_bounded(writer):
    """A client that takes nothing has its time; once it has taken what there was it is not bounded."""
    writer.pause()
    assert writer.deadline <= time.monotonic() + 10
    writer.resume()
    assert writer.deadline == math.inf


def test_a_response_is_bounded_as_a_whole(writer):
    """A later pause within the same response gives no more time than its length allows."""
    writer.begin_response(0)
    bound = time.monotonic() + 10
    writer.pause()
    writer.resume()
    writer.pause()
    assert writer.deadline <= bound


async def test_waits_while_paused(writer):
    """Writing waits for a slow client, also when it pauses again; cancelling the wait harms no other request."""
    await asyncio.wait_for(writer.drained(), 10)
    writer.pause()
    waiting = asyncio.ensure_future(writer.drained())
    await asyncio.sleep(0)
    writer.resume()
    writer.pause()
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    writer.resume()
    await asyncio.wait_for(writer.drained(), 10)
