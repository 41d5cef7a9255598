"""Starts a worker and lets it load its model."""

from __future__ import annotations

import asyncio
import functools
import math
import os
from collections.abc import Callable, Collection

from embeddings_gateway.backends.messages import ProtocolError, Ready, Refused, Start
from embeddings_gateway.backends.spec import Spec
from embeddings_gateway.workers.engine import WorkerGone
from embeddings_gateway.workers.local.environment import worker_environment
from embeddings_gateway.workers.local.hang_detector import WorkerTimeouts
from embeddings_gateway.workers.local.link import Link
from embeddings_gateway.workers.local.process import Death, WorkerProcess
from embeddings_gateway.workers.local.stderr_filter import crash_line

LATE_FACTOR = 20
"""A start that takes this many times as long as the fastest one is late."""

PROGRAM_FAULTS = tuple(f"signal {name}" for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"))
"""The signals by which a program's own fault ends it. Other signals come from outside."""


class LoadRefused(Exception):
    """The worker reports that its model cannot be served, and why."""


class LoadCrashed(Exception):
    """The worker ended before its model was loaded. It saw no user's text: its stderr may be logged.

    Attributes:
        cause: why it ended.
        reason: how, in a few words.
    """

    def __init__(self, death: Death) -> None:
        super().__init__(f"{death.how}\n{death.stderr}".strip())
        line = crash_line(death.stderr)
        self.cause = death.cause
        self.reason = f"{death.how}: {line}" if line else death.how

    @property
    def will_repeat(self) -> bool:
        """Whether the program itself failed, and not for lack of memory: with the same files it does so again."""
        return self.reason.startswith(PROGRAM_FAULTS) and "bad_alloc" not in self.reason


class Launcher:
    """The starts of one worker, one after the other.

    Args:
        spec, cores, forward_stderr, timeouts: see :func:`startup`.
        on_late: called when a start takes far longer than an earlier one. The start goes on.

    Attributes:
        late: whether the current start is late.
        fastest_s: how long the fastest start took.
    """

    def __init__(
        self,
        spec: Spec,
        cores: Collection[int],
        forward_stderr: Callable[[bytes], object] | None,
        *,
        timeouts: WorkerTimeouts,
        on_late: Callable[[], None],
    ) -> None:
        self.late = False
        self._startup = functools.partial(startup, spec, cores, forward_stderr, timeouts=timeouts)
        self._timeouts = timeouts
        self._on_late = on_late
        self.fastest_s = math.inf

    async def launch(self) -> Link:
        """Start the worker; see :func:`startup`."""
        late_s = max(self._timeouts.hang_s, LATE_FACTOR * self.fastest_s)
        never_s = self._timeouts.load_s + 1  # by then the start has timed out
        loop = asyncio.get_running_loop()
        began = loop.time()
        timer = loop.call_later(min(late_s, never_s), self._note_late)
        try:
            link = await self._startup()
        finally:
            timer.cancel()
            self.late = False
        self.fastest_s = min(self.fastest_s, loop.time() - began)
        return link

    def _note_late(self) -> None:
        self.late = True
        self._on_late()


async def startup(
    spec: Spec,
    cores: Collection[int] = (),
    forward_stderr: Callable[[bytes], object] | None = None,
    *,
    timeouts: WorkerTimeouts = WorkerTimeouts(),  # noqa: B008 - frozen
) -> Link:
    """Start a worker, let it load its model, and return the link to it.

    Args:
        spec: the model.
        cores: numbers of the cores that the worker is pinned to; empty if it is not pinned.
        forward_stderr: gets the worker's standard error while it loads, such as a download's progress.
        timeouts: how long the worker may take.

    Raises:
        LoadRefused: the model cannot be served.
        LoadCrashed: the process ended first.
    """
    try:
        environment = worker_environment(spec, os.environ)
        process = await WorkerProcess.start(environment, cores, forward_stderr)
    except OSError as error:  # too few processes, descriptors or memory, perhaps only for a while
        raise LoadCrashed(Death("exit", f"it cannot be started: {error.strerror}")) from None
    try:
        return await _load(process, spec, timeouts)
    except (WorkerGone, ProtocolError, TimeoutError) as error:
        if isinstance(error, TimeoutError):
            process.kill("hang", f"loading took longer than {timeouts.load_s:g} s")
        if isinstance(error, ProtocolError):
            process.kill("protocol", f"it sent {error}")
        raise LoadCrashed(await process.end()) from None
    except BaseException:
        await process.end()
        raise


async def _load(process: WorkerProcess, spec: Spec, timeouts: WorkerTimeouts) -> Link:
    process.send(Start(spec))
    async with asyncio.timeout(timeouts.load_s):
        reply = await process.first_message()
    match reply:
        case Ready():
            process.stop_forwarding_stderr()
            return Link(process, reply, timeouts)
        case Refused(reason=reason):
            raise LoadRefused(reason)
        case _:
            raise ProtocolError(f"a {type(reply).__name__} as its first message")
