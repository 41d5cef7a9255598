"""A worker's operating-system process: started, given frames, listened to, ended.

What the frames say is the business of ``connection``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Literal, NamedTuple

from embeddings_gateway.backends.protocol import (
    HEADER,
    FromWorker,
    ToWorker,
    decode_from_worker,
    encode_frame,
    payload_length,
)
from embeddings_gateway.workers.shortage import Shortage
from embeddings_gateway.workers.worker import CallFailed, WorkerLost

STDERR_BYTES_KEPT = 4096
READ_BYTES = 1 << 16
LEAVE_S = 0.2
LAST_WORDS_S = 1.0
DIE_S = 10.0

ENGINE_SETTINGS = {
    # OpenMP's threads wait for each other two hundred times in a short input. Spinning, as is their default,
    # they make both torch and llama.cpp five times slower with one busy core beside them; asleep at once, a
    # short input takes llama.cpp four times as long. So they spin for a few microseconds, and then sleep.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "200",
    "GGML_NO_BACKTRACE": "1",  # ggml shall not start a debugger when it aborts
    # glibc keeps eight heaps for each core, and an engine's threads scatter buffers over them all: memory
    # creeps up for hours, though nothing leaks. Two heaps are as fast; a single one costs 7 % of throughput.
    "MALLOC_ARENA_MAX": "2",
}
"""What engines, and the C library under them, read from their environment once."""


Cause = Literal["exit", "signal", "memory", "hang", "protocol", "replaced"]
"""Why a process ended: by itself, by a signal, by the system for lack of memory; or because we ended it,
since it hung, broke the protocol, or was no longer wanted."""


class Death(NamedTuple):
    """How a worker process ended.

    Attributes:
        cause: what kind of end it was.
        how: for people: ``exit status 3``, ``signal SIGABRT``, or why it was ended.
        said: the end of what it wrote to its standard error.
    """

    cause: Cause
    how: str
    said: str = ""


class WorkerProcess:
    """One worker process. Made by :meth:`start`; belongs to one event loop."""

    def __init__(
        self,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        echo: Callable[[bytes], object] | None,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._stderr = b""
        self._verdict: Death | None = None
        self._shortage = Shortage(time.monotonic())
        self._echo = echo
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    @classmethod
    async def start(
        cls, threads: int | None, cores: Collection[int], echo: Callable[[bytes], object] | None
    ) -> WorkerProcess:
        """Start a worker that waits for its first frame.

        Args:
            threads: for engines that read their number of threads when they are imported.
            cores: the numbers of those that it is pinned to; none if it is not.
            echo: is given what the process writes to its standard error, a download's progress for instance.
        """
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=READ_BYTES)
        try:
            with theirs:
                # -P: whatever lies in the working directory is not imported. A session of its own: Ctrl-C on
                # the terminal is for the gateway alone.
                process = await asyncio.create_subprocess_exec(
                    *(
                        sys.executable,
                        "-P",
                        "-m",
                        "embeddings_gateway.backends.worker",
                        str(theirs.fileno()),
                        str(os.getpid()),
                    ),
                    pass_fds=[theirs.fileno()],
                    stdin=DEVNULL,
                    stdout=DEVNULL,
                    stderr=PIPE,
                    start_new_session=True,
                    env=environment(threads, os.environ),
                )
        except BaseException:  # nothing may be waited for once there is a process: it would be left behind
            writer.close()
            raise
        _pin(process.pid, cores)
        return cls(process, reader, writer, echo)

    def send(self, message: ToWorker) -> None:
        """Write a frame. What cannot be delivered is noticed by :meth:`receive`.

        Raises:
            CallFailed: there is no such frame; the worker knows nothing of it.
        """
        try:
            frame = encode_frame(message)
        except ValueError as error:  # a text that is not Unicode, for instance
            raise CallFailed(f"it cannot be sent: {type(error).__name__}") from None
        with suppress(RuntimeError):  # uvloop's word for a socket that has just been closed
            self._writer.write(frame)

    async def receive(self) -> FromWorker:
        """Return the next message.

        Raises:
            WorkerLost: there is none; the process is ending.
            ProtocolError: what came is not a message.
        """
        try:
            length = payload_length(await self._reader.readexactly(HEADER.size))
            return decode_from_worker(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            raise WorkerLost("the worker closed its socket") from None

    def condemn(self, cause: Cause, why: str) -> None:
        """Kill the process. There is nothing to ask it for: it holds no state."""
        self._verdict = self._verdict or Death(cause, why)
        if self._process.returncode is None:
            self._process.kill()
        self._writer.transport.abort()  # or whoever else holds the other end could keep it open

    async def end(self) -> Death:
        """Make sure that the process has ended; return how it did."""
        self._writer.close()
        with suppress(TimeoutError):  # one that dies by itself shall be seen to die of its own cause
            async with asyncio.timeout(LEAVE_S):
                await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
        try:
            async with asyncio.timeout(DIE_S):
                code = await self._process.wait()
        except TimeoutError:  # stuck in the kernel: what it holds is lost, but nobody waits for it
            code = -signal.SIGKILL
        await asyncio.wait([self._listening], timeout=LAST_WORDS_S)
        said = self._stderr.decode(errors="replace").strip()
        return (self._verdict or self._found(code))._replace(said=said)

    def _found(self, code: int) -> Death:
        """Return how a process ended that we did not end; a signal by its name, where it has one."""
        if code >= 0:
            return Death("exit", f"exit status {code}")
        if code == -signal.SIGKILL and self._shortage.lately:
            return Death("memory", "ended by the system for lack of memory")
        names = {number.value: number.name for number in signal.Signals}
        return Death("signal", f"signal {names.get(-code, -code)}")

    def look_round(self) -> None:
        """Be asked now and then while it lives, so that its death can be judged by what has just happened."""
        self._shortage.look(time.monotonic())

    def hush(self) -> None:
        """Echo nothing from now on: it is given texts of users, and libraries quote them."""
        self._echo = None

    async def _listen(self) -> None:
        """Keep the end of what the process says; the pipe must never fill up."""
        if self._process.stderr is None:
            return
        while said := await self._process.stderr.read(READ_BYTES):
            self._stderr = (self._stderr + said)[-STDERR_BYTES_KEPT:]
            if self._echo is not None:
                with suppress(OSError):  # the terminal may have gone
                    self._echo(said)


def _pin(pid: int, cores: Collection[int]) -> None:
    """Keep a process on these cores, and with it the threads that it will make.

    Before its first frame a worker has at most the idle threads of an import beside its own: its engine makes
    those that compute when the model is loaded.
    """
    if cores and sys.platform == "linux":
        with suppress(OSError):  # it has ended, which is seen elsewhere, or may use these cores no more
            os.sched_setaffinity(pid, cores)


def environment(threads: int | None, own: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment: this process's own, over settings that engines read when imported.

    Args:
        threads: how many an engine may have; ``None`` leaves it to the engine.
        own: what the operator has set.
    """
    settings = dict(ENGINE_SETTINGS)
    if "OMP_WAIT_POLICY" in own:
        del settings["GOMP_SPINCOUNT"]  # it would count for more
    if threads is not None:
        settings["OMP_NUM_THREADS"] = str(threads)
    return {**settings, **own}
