"""Starts a worker and lets it load its model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from backends.protocol import ProtocolError, Ready, Refused, Start
from backends.spec import Spec
from gateway.workers.connection import Connection
from gateway.workers.process import Death, WorkerProcess
from gateway.workers.vigil import Patience
from gateway.workers.worker import WorkerLost


class LoadRefused(Exception):
    """The worker says that its model cannot be served, and why. Starting again would not help."""


class DiedLoading(Exception):
    """The worker ended before its model was loaded. It has seen no user's text: all it said may be told."""

    def __init__(self, death: Death) -> None:
        super().__init__(f"{death.how}\n{death.said}".strip())
        self.cause = death.cause


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
