"""Calls to a worker whose other end the test plays: each answer to its call, and nothing hostile believed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from embeddings_gateway.backends.protocol import (
    Embed,
    Embedded,
    Failed,
    PackedIds,
    Ping,
    Pong,
    ProtocolError,
    Ready,
    Tokenize,
    Tokens,
)
from embeddings_gateway.workers.connection import Connection
from embeddings_gateway.workers.process import Death
from embeddings_gateway.workers.vigil import Patience
from embeddings_gateway.workers.worker import CallFailed, DiedOutOfMemory, WorkerDied, WorkerLost
from tests.gateway.fakes import all_quiet, make_ids, make_info, right_vectors

pytestmark = pytest.mark.anyio


class Wire:
    """A worker process of which the test plays the other end.

    Attributes:
        sent: what the gateway sent.
        coming: what it will receive: messages, or an exception to end with.
        verdict: why it was condemned.
    """

    def __init__(self):
        self.sent = []
        self.coming = asyncio.Queue()
        self.verdict = None

    def send(self, message):
        """See :class:`embeddings_gateway.workers.process.WorkerProcess`."""
        self.sent.append(message)

    def look_round(self):
        """See :class:`embeddings_gateway.workers.process.WorkerProcess`."""

    async def receive(self):
        """See :class:`embeddings_gateway.workers.process.WorkerProcess`."""
        message = await self.coming.get()
        if isinstance(message, Exception):
            raise message
        return message

    def condemn(self, cause, why):
        """See :class:`embeddings_gateway.workers.process.WorkerProcess`."""
        self.verdict = self.verdict or Death(cause, why)
        self.coming.put_nowait(WorkerLost())

    async def end(self):
        """See :class:`embeddings_gateway.workers.process.WorkerProcess`."""
        return self.verdict or Death("exit", "exit status 0")


@pytest.fixture
async def wire():
    """Return a wire, and the connection over it."""
    one = Wire()
    made = Connection(one, Ready(make_info(), 0.1, 1e4), Patience())
    yield one, made
    await made.close()


async def test_answers_in_any_order(wire):
    """Each answer goes to the call that has its id, in whatever order they come."""
    channel, connection = wire
    batches = [[make_ids(3)], [make_ids(4), make_ids(5)]]
    calls = [asyncio.ensure_future(connection.embed(batch)) for batch in batches]
    ping = asyncio.ensure_future(connection.ping())
    await all_quiet()
    assert [type(message) for message in channel.sent] == [Embed, Embed, Ping]
    for place in (2, 1, 0):
        asked = channel.sent[place]
        answer = Pong(asked.id, 2.5)
        if isinstance(asked, Embed):
            answer = Embedded.of(asked.id, right_vectors(asked.inputs.unpack()), 0.1)
        channel.coming.put_nowait(answer)
    for call, batch in zip(calls, batches, strict=True):
        assert np.array_equal((await call).vectors, right_vectors(batch))
    assert await ping == 2.5


async def test_answer_that_nobody_waits_for(wire):
    """An answer to a call that was given up, or never made, is passed over."""
    channel, connection = wire
    left = asyncio.ensure_future(connection.ping())
    await all_quiet()
    left.cancel()
    await all_quiet()
    channel.coming.put_nowait(Pong(channel.sent[0].id, 1.0))
    channel.coming.put_nowait(Pong(999, 1.0))
    stays = asyncio.ensure_future(connection.ping())
    await all_quiet()
    channel.coming.put_nowait(Pong(channel.sent[1].id, 2.0))
    assert await stays == 2.0


@pytest.mark.parametrize(("cause", "kind"), [("memory", DiedOutOfMemory), ("signal", WorkerDied)])
async def test_death(wire, cause, kind):
    """The batch that was computed has perhaps ended the worker, or its memory; the one behind it has not."""
    channel, connection = wire
    calls = [asyncio.ensure_future(connection.embed([make_ids(3)])) for _ in range(2)]
    await all_quiet()
    channel.condemn(cause, "it was ended")
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [kind, WorkerLost]


async def test_failed_call(wire):
    """A call that failed, or was answered with the wrong kind, is that; the next one goes on."""
    channel, connection = wire
    for answer in (Failed(0, "ValueError"), Pong(1, 0.0)):
        call = asyncio.ensure_future(connection.tokenize(["a"]))
        await all_quiet()
        assert isinstance(channel.sent[-1], Tokenize)
        channel.coming.put_nowait(answer)
        with pytest.raises(CallFailed, match=r"ValueError|Pong"):
            await call


@pytest.mark.parametrize(
    "end",
    [WorkerLost(), ProtocolError("a frame"), Ready(make_info(), 0.1, 1e4)],
    ids=["lost", "hostile", "no answer"],
)
async def test_end_of_the_wire(wire, end):
    """When nothing more can be received every open call is lost, once, and so is every later one."""
    channel, connection = wire
    calls = [asyncio.ensure_future(connection.ping()) for _ in range(3)]
    await all_quiet()
    channel.coming.put_nowait(end)
    for call in calls:
        with pytest.raises(WorkerLost):
            await call
    with pytest.raises(WorkerLost):
        await connection.ping()
    assert len(channel.sent) == 3
    assert (await connection.ended()).cause == ("exit" if isinstance(end, WorkerLost) else "protocol")


@pytest.mark.parametrize(
    "lie",
    [Embedded(0, 2, 8, bytes(32), 0.1), Embedded(0, 1, 8, bytes(31), 0.1)],
    ids=["shape", "bytes"],
)
async def test_lying_answer(wire, lie):
    """An answer whose shape does not fit its bytes is a failed call."""
    channel, connection = wire
    call = asyncio.ensure_future(connection.embed([make_ids(3)]))
    await all_quiet()
    channel.coming.put_nowait(lie)
    with pytest.raises(CallFailed):
        await call


async def test_lying_lengths(wire):
    """So are ids whose lengths do not add up."""
    channel, connection = wire
    call = asyncio.ensure_future(connection.tokenize(["a"]))
    await all_quiet()
    channel.coming.put_nowait(Tokens(0, PackedIds(b"\x02\x00\x00\x00", bytes(4)), 0.1))
    with pytest.raises(CallFailed):
        await call
