"""One live worker process and the socket to it: calls out, each matched with its answer.

Knows nothing of restarts: when the process or the socket ends, every open call fails, once, and it is over.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import structlog

from backends.base import ModelInfo, TokenIds
from backends.protocol import (
    Answer,
    Call,
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
from gateway.workers.process import WorkerProcess
from gateway.workers.worker import CallFailed, Timed, WorkerLost

T = TypeVar("T")

log = structlog.get_logger()


class LoadRefused(Exception):
    """The worker says that its model cannot be served, and why. Starting again would not help."""


class Connection:
    """A worker process whose model is loaded. Made by :func:`connect`; belongs to one event loop.

    Attributes:
        info: the facts of its model.
        load_seconds: how long it took to load.
        lost: whether there is nobody to answer a call any more.
    """

    def __init__(self, process: WorkerProcess, ready: Ready) -> None:
        self.info: ModelInfo = ready.info
        self.load_seconds = ready.seconds
        self._process = process
        self._ids = itertools.count()
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self.lost = False
        self._receiving = asyncio.get_running_loop().create_task(self._receive())

    @property
    def calls(self) -> int:
        """How many calls are open."""
        return len(self._calls)

    async def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """See :class:`gateway.workers.worker.Worker`."""
        match await self._call(lambda call_id: Tokenize(call_id, list(texts))):
            case Tokens(inputs=packed):
                return _unpacked(packed.unpack)
            case answer:
                raise CallFailed(_told(answer))

    async def embed(self, batch: Sequence[TokenIds]) -> Timed:
        """See :class:`gateway.workers.worker.Worker`."""
        match await self._call(lambda call_id: Embed(call_id, PackedIds.of(batch))):
            case Embedded() as answer:
                return Timed(_unpacked(answer.unpack), answer.seconds)
            case answer:
                raise CallFailed(_told(answer))

    async def ping(self) -> float:
        """See :class:`gateway.workers.worker.Worker`."""
        match await self._call(Ping):
            case Pong(busy_seconds=busy):
                return busy
            case answer:
                raise CallFailed(_told(answer))

    async def ended(self) -> str:
        """Wait until the process has ended; return how."""
        await asyncio.wait([self._receiving])
        return await self._process.end()

    async def close(self) -> None:
        """End the process. Open calls fail."""
        await self._process.end()
        await asyncio.wait([self._receiving])

    async def _call(self, make: Callable[[int], Call]) -> Answer:
        if self.lost:
            raise WorkerLost
        call_id = next(self._ids)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = answer
        try:
            self._process.send(make(call_id))
            return await answer
        finally:
            del self._calls[call_id]

    async def _receive(self) -> None:
        """Hand each answer to its call, until there is nothing more to receive."""
        try:
            while isinstance(message := await self._process.receive(), Answer):
                call = self._calls.get(message.id)
                if call is not None and not call.done():
                    call.set_result(message)
            log.warning("worker out of protocol", answered=type(message).__name__)
        except (WorkerLost, ProtocolError) as error:
            log.debug("worker lost", reason=str(error))
        finally:
            self.lost = True
            for call in self._calls.values():
                if not call.done():
                    call.set_exception(WorkerLost())


async def connect(
    spec: Spec, cores: Collection[int] = (), echo: Callable[[bytes], object] | None = None
) -> Connection:
    """Start a worker, let it load its model, and return the connection.

    Args:
        spec: the model.
        cores: the numbers of those that the worker is pinned to; none if it is not.
        echo: is given what the worker writes to its standard error, a download's progress for instance.

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
        match await process.receive():
            case Ready() as ready:
                return Connection(process, ready)
            case Refused(reason=reason):
                raise LoadRefused(reason)
            case _:
                raise ProtocolError("the first answer is neither Ready nor Refused")
    except (WorkerLost, ProtocolError):
        raise WorkerLost(await process.end()) from None
    except BaseException:
        await process.end()
        raise


def _unpacked(unpack: Callable[[], T]) -> T:
    try:
        return unpack()
    except ProtocolError as error:
        raise CallFailed(str(error)) from None


def _told(answer: Answer) -> str:
    return answer.reason if isinstance(answer, Failed) else f"answered with {type(answer).__name__}"
