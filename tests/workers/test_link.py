"""Calls to a worker that the test plays: each gets its reply, and no hostile reply is believed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from embeddings_gateway.backends.base import Column
from embeddings_gateway.backends.messages import (
    Cancel,
    Failed,
    Outdated,
    PackedBatch,
    PackedColumn,
    Ping,
    Pong,
    ProtocolError,
    Ran,
    Ready,
    Run,
    Tokenize,
    Tokens,
)
from embeddings_gateway.workers.engine import CallFailed, CrashedOutOfMemory, WorkerCrashed, WorkerGone
from embeddings_gateway.workers.local.hang_detector import WorkerTimeouts
from embeddings_gateway.workers.local.link import Link
from embeddings_gateway.workers.local.process import Death
from tests.workers.fakes import all_quiet, make_batch, make_info, right_vectors

pytestmark = pytest.mark.anyio


class ScriptedProcess:
    """A worker process that the test plays.

    Attributes:
        sent: what the gateway sent.
        on_message: what the link does with a message.
        verdict: why it was killed.
    """

    def __init__(self):
        self.sent = []
        self.on_message = None
        self.verdict = None
        self._closed = asyncio.get_running_loop().create_future()

    def send(self, message):
        """See :class:`embeddings_gateway.workers.local.process.WorkerProcess`."""
        self.sent.append(message)

    def listen(self, on_message):
        """See :class:`embeddings_gateway.workers.local.process.WorkerProcess`."""
        self.on_message = on_message

    def reply(self, message):
        """Send a message to the gateway, as the reader of frames does."""
        try:
            self.on_message(message)
        except ProtocolError as error:
            self.close(error)

    def close(self, error=None):
        """Close the socket."""
        if not self._closed.done():
            self._closed.set_result(error)

    async def closed(self):
        """See :class:`embeddings_gateway.workers.local.process.WorkerProcess`."""
        return await self._closed

    def sample_oom(self):
        """See :class:`embeddings_gateway.workers.local.process.WorkerProcess`."""

    def kill(self, cause, why):
        """See :class:`embeddings_gateway.workers.local.process.WorkerProcess`."""
        self.verdict = self.verdict or Death(cause, why)
        self.close()

    async def end(self):
        """See :class:`embeddings_gateway.workers.local.process.WorkerProcess`."""
        return self.verdict or Death("exit", "exit status 0")


@pytest.fixture
async def process():
    """Return a process that the test plays."""
    return ScriptedProcess()


@pytest.fixture
async def link(process):
    """Return the link to it."""
    link = Link(process, Ready(make_info(), 0.1, 1e4, {}), WorkerTimeouts())
    yield link
    await link.close()


def run(link, *lengths):
    """Start running a batch of inputs of these lengths."""
    return asyncio.ensure_future(link.run(make_batch(*lengths), ("dense",)))


async def test_file_that_has_changed(process, link):
    """A worker whose file has been changed is killed, and none of its calls is at fault."""
    calls = [run(link, 3), run(link, 4)]
    await all_quiet()
    process.reply(Outdated("/models/a.gguf"))
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [WorkerGone, WorkerGone]
    death = await link.ended()
    assert (death.cause, death.how) == ("replaced", "/models/a.gguf was changed while it was served")


async def test_replies_in_any_order(process, link):
    """Each reply goes to the call with its id, in whatever order they come."""
    batches = [make_batch(3), make_batch(4, 5)]
    calls = [asyncio.ensure_future(link.run(batch, ("dense",))) for batch in batches]
    ping = asyncio.ensure_future(link.ping())
    await all_quiet()
    assert [type(message) for message in process.sent] == [Run, Run, Ping]
    for sent in reversed(process.sent):
        reply = Pong(sent.id, 2.5)
        if isinstance(sent, Run):
            reply = Ran.of(sent.id, {"dense": Column(right_vectors(sent.batch.unpack()))}, 0.1)
        process.reply(reply)
    for call, batch in zip(calls, batches, strict=True):
        result = await call
        assert np.array_equal(result.columns["dense"].values, right_vectors(batch))
        assert result.seconds == 0.1
    assert await ping == 2.5
    assert link.batches == 2


async def test_pairs(process, link):
    """The second texts of pairs are sent beside the first ones."""
    call = asyncio.ensure_future(link.tokenize(("a", "b"), ("c", "d")))
    await all_quiet()
    assert process.sent == [Tokenize(0, ["a", "b"], ["c", "d"])]
    batch = make_batch(3, 4)
    process.reply(Tokens(0, PackedBatch.of(batch)))
    assert np.array_equal((await call).batch.ids, batch.ids)


async def test_cancelled_tokenizer_call(process, link):
    """The worker is told of a tokenizer call that nobody waits for, which ends when the worker is done with it."""
    call = asyncio.ensure_future(link.tokenize(["a"]))
    await all_quiet()
    call.cancel()
    await all_quiet()
    assert process.sent == [Tokenize(0, ["a"]), Cancel(0)]
    assert not call.done()
    process.reply(Failed(0, "cancelled"))
    await asyncio.wait([call])
    assert call.cancelled()


@pytest.mark.parametrize("end", ["kill", "second cancel"])
async def test_cancelled_tokenizer_call_of_a_worker_that_ends(process, link, end):
    """A cancelled call waits for no worker that is gone, and for none longer than its caller wants."""
    call = asyncio.ensure_future(link.tokenize(["a"]))
    await all_quiet()
    call.cancel()
    await all_quiet()
    if end == "kill":
        process.kill("signal", "it was ended")
    else:
        call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()


async def test_declined_texts_that_were_not_sent(process, link):
    """A reply that declines a text which nobody sent is a failed call."""
    call = asyncio.ensure_future(link.tokenize(["a"]))
    await all_quiet()
    process.reply(Tokens(0, PackedBatch.of(make_batch(3)), {1: "no"}))
    with pytest.raises(CallFailed):
        await call


async def test_reply_that_nobody_waits_for(process, link):
    """A reply to a call that was cancelled, or never made, is dropped."""
    cancelled = asyncio.ensure_future(link.ping())
    await all_quiet()
    cancelled.cancel()
    await all_quiet()
    process.reply(Pong(process.sent[0].id, 1.0))
    process.reply(Pong(999, 1.0))
    waiting = asyncio.ensure_future(link.ping())
    await all_quiet()
    process.reply(Pong(process.sent[1].id, 2.0))
    assert await waiting == 2.0


@pytest.mark.parametrize(("cause", "kind"), [("memory", CrashedOutOfMemory), ("signal", WorkerCrashed)])
async def test_crash(process, link, cause, kind):
    """The running batch may have caused a crash, or used up the memory; the one behind it has not."""
    calls = [run(link, 3), run(link, 3)]
    await all_quiet()
    process.kill(cause, "it was ended")
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [kind, WorkerGone]


async def test_failed_call(process, link):
    """A call that failed, or got the wrong kind of reply, fails; the next one goes on."""
    for reply in (Failed(0, "ValueError"), Pong(1, 0.0)):
        call = asyncio.ensure_future(link.tokenize(["a"]))
        await all_quiet()
        process.reply(reply)
        with pytest.raises(CallFailed, match=r"ValueError|Pong"):
            await call


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (lambda process: process.close(), "exit"),
        (lambda process: process.close(ProtocolError("a frame")), "protocol"),
        (lambda process: process.reply(Ready(make_info(), 0.1, 1e4, {})), "protocol"),
    ],
    ids=["gone", "hostile", "no reply"],
)
async def test_end_of_the_socket(process, link, end, cause):
    """When the socket closes, every open call raises WorkerGone once, and so does every later one."""
    calls = [asyncio.ensure_future(link.ping()) for _ in range(3)]
    await all_quiet()
    end(process)
    for call in calls:
        with pytest.raises(WorkerGone):
            await call
    with pytest.raises(WorkerGone):
        await link.ping()
    assert len(process.sent) == 3
    assert (await link.ended()).cause == cause


@pytest.mark.parametrize("width", [5, 0])
async def test_inconsistent_vectors(process, link, width):
    """A reply whose width does not fit its bytes is a failed call."""
    call = run(link, 3)
    await all_quiet()
    process.reply(Ran(0, {"dense": PackedColumn(width, bytes(32))}, 0.1))
    with pytest.raises(CallFailed):
        await call


async def test_inconsistent_lengths(process, link):
    """A reply whose lengths do not add up to its ids is a failed call."""
    call = asyncio.ensure_future(link.tokenize(["a"]))
    await all_quiet()
    process.reply(Tokens(0, PackedBatch(b"\x02\x00\x00\x00", bytes(4))))
    with pytest.raises(CallFailed):
        await call
