"""The link to one live worker process: sends calls, matches each reply to its call, and ends hung workers.

It knows nothing of restarts. When the process or the socket ends, every open call fails once, and it is over.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Container, Sequence
from typing import TypeVar

from embeddings_gateway.backends.base import Batch, Output, Part
from embeddings_gateway.backends.messages import (
    Cancel,
    Check,
    Checked,
    Failed,
    FromWorker,
    Outdated,
    PackedBatch,
    Ping,
    Pong,
    ProtocolError,
    Ran,
    Ready,
    Request,
    Run,
    Tokenize,
    Tokens,
    WorkerReply,
)
from embeddings_gateway.workers.engine import (
    CallFailed,
    CrashedOutOfMemory,
    EngineOutOfMemory,
    EngineResult,
    Loaded,
    TokenizeResult,
    WorkerCrashed,
    WorkerGone,
)
from embeddings_gateway.workers.local.hang_detector import HangDetector, WorkerTimeouts
from embeddings_gateway.workers.local.process import Cause, Death, WorkerProcess

T = TypeVar("T")


class Link:
    """A worker process with a loaded model. Made by ``launcher.startup``; belongs to one event loop.

    Attributes:
        loaded: the model's facts, and its outputs for the self-test's probes.
        load_seconds: how long the model took to load.
        tokens_per_s: the speed in the self-test.
        batches: how many the worker has computed.
        lost: whether no call can be sent any more.
    """

    def __init__(self, process: WorkerProcess, ready: Ready, timeouts: WorkerTimeouts) -> None:
        self.loaded = Loaded(
            ready.info, {output: column.unpack() for output, column in ready.reference.items()}
        )
        self.load_seconds = ready.seconds
        self.tokens_per_s = ready.tokens_per_s
        self.batches = 0
        self.lost = False
        self._process = process
        self._ids = itertools.count()
        self._replies: dict[int, asyncio.Future[WorkerReply]] = {}
        self._hang_detector = HangDetector(timeouts)
        process.listen(self._receive)
        loop = asyncio.get_running_loop()
        self._life = loop.create_task(self._live())
        self._watch = loop.create_task(self._watch_for_hangs())

    async def tokenize(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        part: Part | None = None,
        timeout_s: float = math.inf,
    ) -> TokenizeResult:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        pairs = None if text_pairs is None else list(text_pairs)
        try:
            reply = await self._call(Tokenize(next(self._ids), list(texts), pairs, part), timeout_s)
        except CallFailed:
            not_unicode = _not_unicode(texts, text_pairs)
            if not not_unicode:
                raise
            texts = _emptied(texts, not_unicode)
            pairs = None if pairs is None else _emptied(pairs, not_unicode)
            result = await self.tokenize(texts, pairs, part, timeout_s)
            return TokenizeResult(result.batch, {**result.declined, **not_unicode})
        match reply:
            case Tokens(batch=batch, declined=declined, certain=certain) if _fits(reply, texts, part):
                return TokenizeResult(_unpacked(batch.unpack), declined, certain)
            case _:
                raise _failure(reply)

    async def run(self, batch: Batch, outputs: Sequence[Output], timeout_s: float = math.inf) -> EngineResult:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        call = Run(next(self._ids), tuple(outputs), PackedBatch.of(batch))
        match await self._call(call, timeout_s):
            case Ran() as reply:
                self.batches += 1
                return EngineResult(_unpacked(reply.unpack), reply.seconds)
            case reply:
                raise _failure(reply)

    async def check(self, timeout_s: float = math.inf, *, brief: bool = False) -> str:
        """See :class:`embeddings_gateway.workers.engine.Supervised`; ``brief``: compute one probe only."""
        match await self._call(Check(next(self._ids), brief), timeout_s):
            case Checked(problem=problem):
                return problem
            case reply:
                return str(_failure(reply))

    async def ping(self) -> float:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        match await self._call(Ping(next(self._ids)), math.inf):
            case Pong(busy_seconds=busy_seconds):
                return busy_seconds
            case reply:
                raise _failure(reply)

    async def idle(self) -> None:
        """Wait until no call is open."""
        while self._replies and not self.lost:
            await asyncio.wait(self._replies.values(), return_when=asyncio.ALL_COMPLETED)
            await asyncio.sleep(0)  # the callers remove them

    def kill(self, cause: Cause, why: str) -> None:
        """Kill the process. Open calls fail."""
        self._process.kill(cause, why)

    async def ended(self) -> Death:
        """Wait until the process has ended; return how."""
        return await asyncio.shield(self._life)

    async def close(self) -> None:
        """Kill the process and wait until it has ended. Open calls fail."""
        self.kill("replaced", "the gateway ended it")
        await asyncio.wait([self._life])

    async def _call(self, call: Request, timeout_s: float) -> WorkerReply:
        if self.lost:
            raise WorkerGone
        reply: asyncio.Future[WorkerReply] = asyncio.get_running_loop().create_future()
        self._replies[call.id] = reply
        try:
            self._process.send(call)
            self._hang_detector.begin(call, timeout_s)
            return await (self._tokens(reply, call.id) if isinstance(call, Tokenize) else reply)
        finally:
            del self._replies[call.id]

    async def _tokens(self, reply: asyncio.Future[WorkerReply], call_id: int) -> WorkerReply:
        """Await the reply. If this is cancelled, cancel the call, and end when the worker is done with it."""
        try:
            return await asyncio.shield(reply)
        except asyncio.CancelledError:
            self._process.send(Cancel(call_id))
            await asyncio.wait([reply])
            reply.exception()  # nobody else looks at it
            raise

    def _receive(self, message: FromWorker) -> None:
        """Give a reply to its call. A reply to a call that was cancelled is dropped."""
        if isinstance(message, Outdated):
            self.kill("replaced", f"{message.file} was changed while it was served")
            return
        if not isinstance(message, WorkerReply):
            raise ProtocolError(f"a {type(message).__name__}, which is no reply")
        self._hang_detector.end(message.id)
        reply = self._replies.get(message.id)
        if reply is not None and not reply.done():
            reply.set_result(message)

    async def _live(self) -> Death:
        """Wait until the socket has closed, make sure that the process has ended, and fail the open calls."""
        try:
            if error := await self._process.closed():
                self.kill("protocol", f"it sent {error}")
        finally:
            self.lost = True
            self._watch.cancel()
            death = await self._process.end()
            suspects = set() if death.cause == "replaced" else self._hang_detector.suspects()
            crash = CrashedOutOfMemory if death.cause == "memory" else WorkerCrashed
            for call_id, reply in self._replies.items():
                if not reply.done():
                    reply.set_exception((crash if call_id in suspects else WorkerGone)(death.how))
        return death

    async def _watch_for_hangs(self) -> None:
        """Kill the process when it is silent or a call takes too long."""
        while True:
            await asyncio.sleep(self._hang_detector.interval_s)
            if verdict := self._hang_detector.poll():
                self.kill("hang", verdict)
                return
            self._process.sample_oom()
            self._process.send(Ping(next(self._ids)))  # any reply is a sign of life


def _fits(tokens: Tokens, texts: Sequence[str], part: Part | None) -> bool:
    """Return whether a reply is about texts and characters that were sent."""
    begin, end = tokens.certain or (0, 0)
    is_whole = part is None or bool(tokens.declined)
    within = tokens.certain is None if is_whole else 0 <= begin <= len(texts[0]) >= end
    return within and tokens.declined.keys() <= set(range(len(texts)))


def _not_unicode(texts: Sequence[str], text_pairs: Sequence[str] | None) -> dict[int, str]:
    """Return the texts, or pairs, that cannot be sent: half a surrogate pair has no bytes."""
    not_unicode = {}
    for index, text in enumerate(texts):
        try:
            (text if text_pairs is None else text + text_pairs[index]).encode()
        except UnicodeEncodeError:
            not_unicode[index] = "it is not valid Unicode"
    return not_unicode


def _emptied(texts: Sequence[str], indices: Container[int]) -> list[str]:
    """Return the texts, with empty ones at these indices."""
    return ["" if index in indices else text for index, text in enumerate(texts)]


def _unpacked(unpack: Callable[[], T]) -> T:
    try:
        return unpack()
    except ProtocolError as error:
        raise CallFailed(str(error)) from None


def _failure(reply: WorkerReply) -> CallFailed:
    if not isinstance(reply, Failed):
        return CallFailed(f"the reply is a {type(reply).__name__}")
    return EngineOutOfMemory(reply.reason) if reply.memory else CallFailed(reply.reason)
