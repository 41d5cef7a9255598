"""Starts a worker and lets it load its model."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Collection

from embeddings_gateway.backends.protocol import ProtocolError, Ready, Refused, Start
from embeddings_gateway.backends.spec import Spec
from embeddings_gateway.workers.connection import Connection
from embeddings_gateway.workers.process import Death, WorkerProcess
from embeddings_gateway.workers.vigil import Patience
from embeddings_gateway.workers.worker import WorkerLost

LATE_FACTOR = 20
"""A start that takes so many times as long as the quickest one is late."""


class LoadRefused(Exception):
    """The worker says that its model cannot be served, and why."""


class DiedLoading(Exception):
    """The worker ended before its model was loaded. It has seen no user's text: all it said may be told."""

    def __init__(self, death: Death) -> None:
        super().__init__(f"{death.how}\n{death.said}".strip())
        self.cause = death.cause


class Starts:
    """The starts of one worker, one after the other.

    Args:
        spec, cores, echo, patience: see :func:`connect`.
        tell_late: is called when a start takes far longer than an earlier one did. It goes on all the same.

    Attributes:
        late: whether the one that is on does.
    """

    def __init__(
        self,
        spec: Spec,
        cores: Collection[int],
        echo: Callable[[bytes], object] | None,
        *,
        patience: Patience,
        tell_late: Callable[[], None],
    ) -> None:
        self.late = False
        self._start = functools.partial(connect, spec, cores, echo, patience=patience)
        self._patience = patience
        self._tell_late = tell_late
        self._quickest = math.inf

    async def connect(self) -> Connection:
        """Start the worker; see :func:`connect`."""
        seconds_max = max(self._patience.hang_s, LATE_FACTOR * self._quickest)
        never = self._patience.load_s + 1  # it is ended before
        timer = asyncio.get_running_loop().call_later(min(seconds_max, never), self._note_late)
        try:
            connection = await self._start()
        finally:
            timer.cancel()
            self.late = False
        self._quickest = min(self._quickest, connection.load_seconds)
        return connection

    def _note_late(self) -> None:
        self.late = True
        self._tell_late()


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
        DiedLoading: the process ended first.
    """
    try:
        process = await WorkerProcess.start(spec.threads, cores, echo)
    except OSError as error:  # no more processes, descriptors or memory: it may be so for a while only
        raise DiedLoading(Death("exit", f"it cannot be started: {error.strerror}")) from None
    try:
        process.send(Start(spec))
        async with asyncio.timeout(patience.load_s):
            first = await process.receive()
        match first:
            case Ready() as ready:
                process.hush()
                return Connection(process, ready, patience)
            case Refused(reason=reason):
                raise LoadRefused(reason)
            case _:
                raise ProtocolError("the first answer is neither Ready nor Refused")
    except (WorkerLost, ProtocolError, TimeoutError) as error:
        if isinstance(error, TimeoutError):
            process.condemn("hang", f"loading took longer than {patience.load_s:g} s")
        if isinstance(error, ProtocolError):
            process.condemn("protocol", str(error))
        raise DiedLoading(await process.end()) from None
    except BaseException:
        await process.end()
        raise
