"""What a worker's process is started with, how its messages are read, and whether memory ran out."""

from __future__ import annotations

import asyncio
import socket
from typing import get_args

import numpy as np
import pytest

from embeddings_gateway.backends.base import Column
from embeddings_gateway.backends.messages import Failed, Pong, ProtocolError, Ran, encode_frame
from embeddings_gateway.metrics import CAUSES
from embeddings_gateway.workers.local.process import (
    OOM_INTERVAL_S,
    READ_BYTES,
    Cause,
    FrameReader,
    OomWatch,
    oom_kills,
)


def test_every_cause_is_counted():
    """Each cause of a worker's end has a count of its own."""
    assert set(CAUSES) == set(get_args(Cause))


@pytest.mark.parametrize(("vmstat", "count"), [("nr_free_pages 5\noom_kill 3\nx 1\n", 3), ("", 0), (None, 0)])
def test_oom_kills(tmp_path, vmstat, count):
    """The system says how many processes it has killed for lack of memory, or nothing."""
    if vmstat is not None:
        (tmp_path / "vmstat").write_text(vmstat)
    assert oom_kills(tmp_path / "vmstat") == count


def test_recent_kill():
    """A kill of the last seconds counts, although the count was sampled since; an older one does not."""
    kills = 3
    watch = OomWatch(0, lambda: kills)
    assert not watch.recent
    kills = 4
    for now in (1, OOM_INTERVAL_S, OOM_INTERVAL_S + 1, 2 * OOM_INTERVAL_S - 1):
        watch.sample(now)
        assert watch.recent
    watch.sample(2 * OOM_INTERVAL_S)
    assert not watch.recent


def fed(reader, stream, sizes):
    """Give a reader a stream in pieces of these sizes, then all; return the messages that it reads."""
    messages = []
    reader.on_message = messages.append
    while stream:
        buffer = reader.get_buffer(-1)
        size = min(sizes.pop() if sizes else len(stream), len(stream), len(buffer))
        buffer[:size] = stream[:size]
        stream = stream[size:]
        reader.buffer_updated(size)
    return messages


@pytest.mark.anyio
@pytest.mark.parametrize("piece", [1, 3, 7, 100, READ_BYTES, 10 * READ_BYTES])
async def test_messages_from_any_pieces(piece):
    """Messages are the same, small or larger than the buffer, in whatever pieces they arrive."""
    reply = Ran.of(1, {"dense": Column(np.arange(256 * 384, dtype=np.float32).reshape(256, 384))}, 0.1)
    small = [Pong(2, 0.0), Failed(3, "ValueError"), Pong(4, 1.5)]
    stream = b"".join(map(encode_frame, [*small, reply, *small]))
    messages = fed(FrameReader(), stream, [piece] * 5000)
    assert messages[:3] == messages[4:] == small
    assert np.array_equal(messages[3].unpack()["dense"].values.ravel(), np.arange(256 * 384))


@pytest.mark.anyio
async def test_stream_that_is_no_message():
    """A frame that is no message, or too long a one, ends the socket, and nothing after it is read."""
    for stream in (b"\x01\x00\x00\x00\xc1", b"\xff\xff\xff\xff"):
        ours, theirs = socket.socketpair()
        transport, reader = await asyncio.get_running_loop().create_unix_connection(FrameReader, sock=ours)
        theirs.sendall(stream + bytes(encode_frame(Pong(1, 0.0))))
        assert isinstance(await reader.closed, ProtocolError)
        assert await reader.first is None
        assert transport.is_closing()
        theirs.close()


@pytest.mark.anyio
async def test_message_before_any_call():
    """A second message while nobody listens is one that no call asked for."""
    ours, theirs = socket.socketpair()
    _, reader = await asyncio.get_running_loop().create_unix_connection(FrameReader, sock=ours)
    theirs.sendall(bytes(encode_frame(Pong(1, 0.0))) * 2)
    assert "Pong" in str(await reader.closed)
    assert await reader.first == Pong(1, 0.0)
    theirs.close()
