"""One live worker process and the socket to it: calls out, each matched with its answer, none for ever.

Knows nothing of restarts: when the process or the socket ends, every open call fails, once, and it is over.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from backends.base import ModelInfo, TokenIds
from backends.protocol import (
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
    Refused,
    Start,
    Tokenize,
    Tokens,
)
from backends.spec import Spec
from gateway.workers.process import Death, WorkerProcess
from gateway.workers.vigil import Patience, Vigil
from gateway.workers.worker import CallFailed, OutOfMemory, Timed, WorkerLost

T = TypeVar("T")

OUT_OF_PROTOCOL = "out of protocol"


class LoadRefused(Exception):
    """The worker says that its model cannot be served, and why. Starting again would not help."""


class Connection:
    """A worker process whose model is loaded. Made by :func:`connect`; belongs to one event loop.

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
        """See :class:`gateway.workers.worker.Worker`."""
        match await self._call(lambda call_id: Tokenize(call_id, list(texts)), seconds_max):
            case Tokens(inputs=packed):
                return _unpacked(packed.unpack)
            case answer:
                raise _failure(answer)

    async def embed(self, batch: Sequence[TokenIds], seconds_max: float = math.inf) -> Timed:
        """See :class:`gateway.workers.worker.Worker`."""
        match await self._call(lambda call_id: Embed(call_id, PackedIds.of(batch)), seconds_max):
            case Embedded() as answer:
                self.batches += 1
                return Timed(_unpacked(answer.unpack), answer.seconds)
            case answer:
                raise _failure(answer)

    async def check(self, seconds_max: float = math.inf) -> str:
        """See :class:`gateway.workers.worker.Worker`."""
        match await self._call(Check, seconds_max):
            case Checked(wrong=wrong):
                return wrong
            case answer:
                return str(_failure(answer))

    async def ping(self) -> float:
        """See :class:`gateway.workers.worker.Worker`."""
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

    def condemn(self, verdict: str) -> None:
        """End the process; ``verdict`` says why. Open calls fail."""
        self._process.condemn(verdict)

    async def ended(self) -> Death:
        """Wait until the process has ended; return how."""
        return await asyncio.shield(self._living)

    async def close(self) -> None:
        """End the process. Open calls fail."""
        self.condemn("the gateway ended it")
        await asyncio.wait([self._living])

    async def _call(self, make: Callable[[int], Call], seconds_max: float) -> Answer:
        if self.lost:
            raise WorkerLost
        call_id = next(self._ids)
        call = make(call_id)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = answer
        self._vigil.begin(call, seconds_max)
        try:
            self._process.send(call)
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
            self._process.condemn(OUT_OF_PROTOCOL)
        except ProtocolError:
            self._process.condemn(OUT_OF_PROTOCOL)
        except WorkerLost:
            pass
        finally:
            self.lost = True
            self._watching.cancel()
            death = await self._process.end()
            suspects = self._vigil.suspects()
            for call_id, call in self._calls.items():
                if not call.done():
                    call.set_exception(
                        WorkerLost(death.cause, suspect=call_id in suspects, memory=death.memory)
                    )
        return death

    async def _watch(self) -> None:
        """End the process when it is silent, or takes longer for a call than it may."""
        while True:
            await asyncio.sleep(self._vigil.tick_s)
            if verdict := self._vigil.tick():
                self._process.condemn(verdict)
                return
            self._process.send(Ping(next(self._ids)))  # whatever it answers is a sign of life


async def connect(
    spec: Spec,
    cores: Collection[int] = (),
    echo: Callable[[bytes], object] | None = None,
    *,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> Connection:
    """Start a worker, let it load its model, and return the connection.

    Args:
        spec: the model.
        cores: the numbers of those that the worker is pinned to; none if it is not.
        echo: is given what the worker writes to its standard error, a download's progress for instance.
        patience: how long it may take for what.

    Raises:
        LoadRefused: the model cannot be served.
        WorkerLost: the process ended first; the message says how.
    """
    try:
        process = await WorkerProcess.start(spec.threads, cores, echo)
    except OSError as error:  # no more processes, descriptors or memory: it may be so for a while only
        raise WorkerLost(f"it cannot be started: {error.strerror}") from None
    try:
        process.send(Start(spec))
        async with asyncio.timeout(patience.load_s):
            first = await process.receive()
        match first:
            case Ready() as ready:
                return Connection(process, ready, patience)
            case Refused(reason=reason):
                raise LoadRefused(reason)
            case _:
                raise ProtocolError("the first answer is neither Ready nor Refused")
    except (WorkerLost, ProtocolError, TimeoutError) as error:
        if isinstance(error, TimeoutError):
            process.condemn(f"loading took longer than {patience.load_s:g} s")
        if isinstance(error, ProtocolError):
            process.condemn(OUT_OF_PROTOCOL)
        death = await process.end()  # it has seen no user's text yet: all that it said may be told
        raise WorkerLost(f"{death.cause}\n{death.said}".strip(), memory=death.memory) from None
    except BaseException:
        await process.end()
        raise


def _unpacked(unpack: Callable[[], T]) -> T:
    try:
        return unpack()
    except ProtocolError as error:
        raise CallFailed(str(error)) from None


def _failure(answer: Answer) -> CallFailed:
    if not isinstance(answer, Failed):
        return CallFailed(f"answered with {type(answer).__name__}")
    return OutOfMemory(answer.reason) if answer.memory else CallFailed(answer.reason)
