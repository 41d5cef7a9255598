"""One live worker process and the socket to it: calls out, each matched with its answer, none for ever.

Knows nothing of restarts: when the process or the socket ends, every open call fails, once, and it is over.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from embeddings_gateway.backends.base import ModelInfo, TokenIds
from embeddings_gateway.backends.protocol import (
    Answer,
    Call,
    Check,
    Checked,
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
from embeddings_gateway.workers.process import Cause, Death, WorkerProcess
from embeddings_gateway.workers.vigil import Patience, Vigil
from embeddings_gateway.workers.worker import (
    CallFailed,
    DiedOutOfMemory,
    OutOfMemory,
    Timed,
    WorkerDied,
    WorkerLost,
)

T = TypeVar("T")


class Connection:
    """A worker process whose model is loaded. Made by ``loading.connect``; belongs to one event loop.

    Attributes:
        info: the facts of its model.
        load_seconds: how long it took to load.
        tokens_per_s: how fast it was in its self-test.
        batches: how many it has answered.
        lost: whether there is nobody to answer a call any more.
    """

    def __init__(self, process: WorkerProcess, ready: Ready, patience: Patience) -> None:
        self.info: ModelInfo = ready.info
        self.load_seconds = ready.seconds
        self.tokens_per_s = ready.tokens_per_s
        self.batches = 0
        self.lost = False
        self._process = process
        self._ids = itertools.count()
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._vigil = Vigil(patience)
        loop = asyncio.get_running_loop()
        self._living = loop.create_task(self._live())
        self._watching = loop.create_task(self._watch())

    @property
    def calls(self) -> int:
        """How many calls are open."""
        return len(self._calls)

    async def tokenize(self, texts: Sequence[str], seconds_max: float = math.inf) -> list[TokenIds]:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        match await self._call(lambda call_id: Tokenize(call_id, list(texts)), seconds_max):
            case Tokens(inputs=packed):
                return _unpacked(packed.unpack)
            case answer:
                raise _failure(answer)

    async def embed(self, batch: Sequence[TokenIds], seconds_max: float = math.inf) -> Timed:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        match await self._call(lambda call_id: Embed(call_id, PackedIds.of(batch)), seconds_max):
            case Embedded() as answer:
                self.batches += 1
                return Timed(_unpacked(answer.unpack), answer.seconds)
            case answer:
                raise _failure(answer)

    async def check(self, seconds_max: float = math.inf) -> str:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        match await self._call(Check, seconds_max):
            case Checked(wrong=wrong):
                return wrong
            case answer:
                return str(_failure(answer))

    async def ping(self) -> float:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        match await self._call(Ping, math.inf):
            case Pong(busy_seconds=busy):
                return busy
            case answer:
                raise _failure(answer)

    async def answered(self) -> None:
        """Wait until no call is open."""
        while self._calls and not self.lost:
            await asyncio.wait(self._calls.values(), return_when=asyncio.ALL_COMPLETED)
            await asyncio.sleep(0)  # whoever waited for them takes them off

    def condemn(self, cause: Cause, why: str) -> None:
        """End the process. Open calls fail."""
        self._process.condemn(cause, why)

    async def ended(self) -> Death:
        """Wait until the process has ended; return how."""
        return await asyncio.shield(self._living)

    async def close(self) -> None:
        """End the process. Open calls fail."""
        self.condemn("replaced", "the gateway ended it")
        await asyncio.wait([self._living])

    async def _call(self, make: Callable[[int], Call], seconds_max: float) -> Answer:
        if self.lost:
            raise WorkerLost
        call_id = next(self._ids)
        call = make(call_id)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = answer
        try:
            self._process.send(call)
            self._vigil.begin(call, seconds_max)
            return await answer
        finally:
            del self._calls[call_id]

    async def _live(self) -> Death:
        """Hand each answer to its call, until there is nothing more to receive; then fail those left."""
        try:
            while isinstance(message := await self._process.receive(), Answer):
                self._vigil.end(message.id)
                call = self._calls.get(message.id)
                if call is not None and not call.done():
                    call.set_result(message)
            self.condemn("protocol", f"it sent a {type(message).__name__}, which is no answer")
        except ProtocolError as error:
            self.condemn("protocol", f"it sent {error}")
        except WorkerLost:
            pass
        finally:
            self.lost = True
            self._watching.cancel()
            death = await self._process.end()
            suspects = self._vigil.suspects()
            for call_id, call in self._calls.items():
                if not call.done():
                    call.set_exception(_of_death(death) if call_id in suspects else WorkerLost(death.how))
        return death

    async def _watch(self) -> None:
        """End the process when it is silent, or takes longer for a call than it may."""
        while True:
            await asyncio.sleep(self._vigil.tick_s)
            if verdict := self._vigil.tick():
                self.condemn("hang", verdict)
                return
            self._process.look_round()
            self._process.send(Ping(next(self._ids)))  # whatever it answers is a sign of life


def _unpacked(unpack: Callable[[], T]) -> T:
    try:
        return unpack()
    except ProtocolError as error:
        raise CallFailed(str(error)) from None


def _of_death(death: Death) -> WorkerDied:
    return (DiedOutOfMemory if death.cause == "memory" else WorkerDied)(death.how)


def _failure(answer: Answer) -> CallFailed:
    if not isinstance(answer, Failed):
        return CallFailed(f"answered with {type(answer).__name__}")
    return OutOfMemory(answer.reason) if answer.memory else CallFailed(answer.reason)
