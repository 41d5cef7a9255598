"""A worker's operating-system process: starts it, exchanges messages with it, and ends it.

``link`` knows what the messages mean.
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
from pathlib import Path
from typing import Literal, NamedTuple

from embeddings_gateway.backends.messages import (
    HEADER,
    FromWorker,
    ProtocolError,
    ToWorker,
    decode_from_worker,
    encode_frame,
    payload_length,
)
from embeddings_gateway.backends.own_process import open_standard_descriptors
from embeddings_gateway.backends.redact import without_secrets
from embeddings_gateway.workers.engine import CallFailed, WorkerGone

STDERR_BYTES_KEPT = 4096
READ_BYTES = 1 << 18
BUFFER_BYTES_KEPT = 1 << 22
EXIT_S = 2.0
STDERR_S = 1.0
KILL_S = 10.0
OOM_INTERVAL_S = 5.0

Cause = Literal["exit", "signal", "memory", "hang", "protocol", "replaced"]
"""Why a process ended. It exited, got a signal, or was killed by the system for lack of memory; or the gateway
killed it because it hung, broke the protocol, or was to be replaced."""


class Death(NamedTuple):
    """How a worker process ended.

    Attributes:
        cause: see :data:`Cause`.
        how: for the log: ``exit status 3``, ``signal SIGABRT``, or why the gateway killed it.
        stderr: the end of its standard error. May contain users' texts.
    """

    cause: Cause
    how: str
    stderr: str = ""


class WorkerProcess:
    """One worker process. Made by :meth:`start`; belongs to one event loop."""

    def __init__(
        self,
        process: Process,
        transport: asyncio.Transport,
        frames: FrameReader,
        forward_stderr: Callable[[bytes], object] | None,
    ) -> None:
        self._process = process
        self._transport = transport
        self._frames = frames
        self._stderr = b""
        self._verdict: Death | None = None
        self._oom_watch = OomWatch(time.monotonic())
        self._forward_stderr = forward_stderr
        self._stderr_reader = asyncio.get_running_loop().create_task(self._read_stderr())

    @classmethod
    async def start(
        cls,
        environment: Mapping[str, str],
        cores: Collection[int],
        forward_stderr: Callable[[bytes], object] | None,
    ) -> WorkerProcess:
        """Start a worker that waits for its first message.

        Args:
            environment: all its environment variables.
            cores: numbers of the cores that it is pinned to; empty if it is not pinned.
            forward_stderr: gets the process's standard error, such as a download's progress.
        """
        open_standard_descriptors()  # an application may have closed them
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, frames = await loop.create_unix_connection(FrameReader, sock=ours)
        try:
            with theirs:
                # -P: nothing is imported from the working directory. A session of its own: Ctrl-C in the
                # terminal reaches the gateway only.
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "embeddings_gateway.backends.worker"),
                    *(str(theirs.fileno()), str(os.getpid())),
                    pass_fds=[theirs.fileno()],
                    stdin=DEVNULL,
                    stdout=DEVNULL,
                    stderr=PIPE,
                    start_new_session=True,
                    env=environment,
                )
        except BaseException:  # no await after the process exists: a cancelled start would leave it behind
            transport.close()
            raise
        _pin(process.pid, cores)
        return cls(process, transport, frames, forward_stderr)

    def send(self, message: ToWorker) -> None:
        """Send a message, unless the socket is closed; see :meth:`closed`.

        Raises:
            CallFailed: the message cannot be encoded. Nothing was sent.
        """
        try:
            frame = encode_frame(message)
        except ValueError as error:  # for example a text that is not Unicode
            raise CallFailed(f"it cannot be sent: {type(error).__name__}") from None
        with suppress(RuntimeError):  # uvloop raises it for a socket that was just closed
            self._transport.write(frame)

    async def first_message(self) -> FromWorker:
        """Return the reply to the first message.

        Raises:
            WorkerGone: the socket has closed.
            ProtocolError: the worker sent something else.
        """
        message = await self._frames.first
        if message is None:
            raise await self._frames.closed or WorkerGone("the worker closed its socket")
        return message

    def listen(self, on_message: Callable[[FromWorker], None]) -> None:
        """Call ``on_message`` with each message from now on. It raises ``ProtocolError`` for a wrong one."""
        self._frames.on_message = on_message

    async def closed(self) -> ProtocolError | None:
        """Wait until the socket has closed; if a malformed message was the reason, return the error."""
        return await self._frames.closed

    def kill(self, cause: Cause, why: str) -> None:
        """Kill the process at once: it has no state to save."""
        self._verdict = self._verdict or Death(cause, why)
        if self._process.returncode is None:
            self._process.kill()
        self._transport.abort()  # another process that holds the other end would keep it open

    async def end(self) -> Death:
        """Make sure that the process has ended; return how it did."""
        self._transport.close()
        with suppress(TimeoutError):  # a process that crashes ends by itself, and its status shows the cause
            async with asyncio.timeout(EXIT_S):
                await self._process.wait()
        if self._process.returncode is None:
            self._verdict = self._verdict or self._slow_exit()
            self._process.kill()
        try:
            async with asyncio.timeout(KILL_S):
                code = await self._process.wait()
        except TimeoutError:  # stuck in the kernel: its resources are lost, but nobody waits for it
            code = -signal.SIGKILL
        await asyncio.wait([self._stderr_reader], timeout=STDERR_S)
        stderr = without_secrets(self._stderr.decode(errors="replace").strip())
        return (self._verdict or self._death(code))._replace(stderr=stderr)

    def _slow_exit(self) -> Death | None:
        """Return how a process ends that is killed because it does not end itself.

        The system may have killed it before, for lack of memory, and a large process takes a while to end.
        """
        if self._oom_watch.recent:
            return None
        return Death("exit", f"it closed its socket and did not end within {EXIT_S:g} s")

    def _death(self, code: int) -> Death:
        """Return how a process ended that the gateway did not kill; a signal by its name, if it has one."""
        if code >= 0:
            return Death("exit", f"exit status {code}")
        if code == -signal.SIGKILL and self._oom_watch.recent:
            return Death("memory", "killed by the system for lack of memory")
        names = {number.value: number.name for number in signal.Signals}
        return Death("signal", f"signal {names.get(-code, -code)}")

    def sample_oom(self) -> None:
        """Sample the system's count of out-of-memory kills; called regularly while the process lives."""
        self._oom_watch.sample(time.monotonic())

    def stop_forwarding_stderr(self) -> None:
        """Stop forwarding: from now on the process sees users' texts, and libraries quote them."""
        self._forward_stderr = None

    async def _read_stderr(self) -> None:
        """Keep the end of what the process writes. It is always read, so that the pipe never fills up."""
        if self._process.stderr is None:
            return
        while written := await self._process.stderr.read(READ_BYTES):
            self._stderr = (self._stderr + written)[-STDERR_BYTES_KEPT:]
            if self._forward_stderr is not None:
                with suppress(OSError):  # the terminal may have gone
                    self._forward_stderr(written)


class FrameReader(asyncio.BufferedProtocol):
    """Splits a worker's bytes into messages.

    The socket is read straight into the buffer that messages are decoded from. Decoding copies a column once.

    Attributes:
        first: the first message; ``None`` if the socket closed before.
        closed: done when the socket has closed; its result is the error of a malformed message, if there was one.
        on_message: gets each later message. Until it is set, a second message is an error.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[FromWorker | None] = loop.create_future()
        self.closed: asyncio.Future[ProtocolError | None] = loop.create_future()
        self.on_message: Callable[[FromWorker], None] = self._on_first
        self._transport: asyncio.BaseTransport | None = None
        self._error: ProtocolError | None = None
        self._buffer = bytearray(READ_BYTES)
        self._end = 0  # of the received bytes in the buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.BufferedProtocol`."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """See :class:`asyncio.BufferedProtocol`."""
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """See :class:`asyncio.BufferedProtocol`."""
        self._end += nbytes
        try:
            self._read_frames()
        except ProtocolError as error:
            self._error = error
            self._abort()

    def eof_received(self) -> None:
        """See :class:`asyncio.BufferedProtocol`."""
        self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.BufferedProtocol`."""
        if not self.first.done():
            self.first.set_result(None)
        if not self.closed.done():
            self.closed.set_result(self._error)

    def _read_frames(self) -> None:
        """Deliver all complete messages, and make room for the rest of an incomplete one."""
        begin, frame_bytes = 0, 0
        view = memoryview(self._buffer)
        while self._error is None and self._end - begin >= HEADER.size:
            payload = begin + HEADER.size
            end = payload + payload_length(view[begin:payload])
            if end > self._end:
                frame_bytes = end - begin
                break
            self.on_message(decode_from_worker(view[payload:end]))
            begin = end
        rest = bytes(view[begin : self._end])
        if frame_bytes > len(self._buffer):
            self._buffer = bytearray(frame_bytes)
        elif frame_bytes <= READ_BYTES and len(self._buffer) > BUFFER_BYTES_KEPT:
            self._buffer = bytearray(READ_BYTES)
        self._buffer[: len(rest)] = rest
        self._end = len(rest)

    def _on_first(self, message: FromWorker) -> None:
        if self.first.done():
            raise ProtocolError(f"a {type(message).__name__} that no call asked for")
        self.first.set_result(message)

    def _abort(self) -> None:
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes the system has killed for lack of memory; 0 where it does not count."""
    with suppress(OSError, ValueError):
        for line in vmstat.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class OomWatch:
    """Whether the system has recently killed a process for lack of memory.

    The system counts such kills for the whole machine, so an old one does not explain a worker's death. The
    count is compared with one of 5 to 10 seconds ago, as long as it is sampled that often: a large process
    takes a while to end after the kill was counted.

    Args:
        now: in seconds.
        count: returns the number of kills so far.
    """

    def __init__(self, now: float, count: Callable[[], int] = oom_kills) -> None:
        self._count = count
        self._older = self._newer = self._count()
        self._sampled_at = now

    def sample(self, now: float) -> None:
        """Take a new sample at the time ``now``, if the last one is old enough."""
        if now - self._sampled_at >= OOM_INTERVAL_S:
            self._older, self._newer, self._sampled_at = self._newer, self._count(), now

    @property
    def recent(self) -> bool:
        """Whether there was a kill since the older sample."""
        return self._count() > self._older


def _pin(pid: int, cores: Collection[int]) -> None:
    """Pin a process to these cores, and with it the threads that it will make.

    Before its first message a worker has no computing threads: its engine makes them when it loads the model.
    """
    if cores and sys.platform == "linux":
        with suppress(OSError):  # it has ended, which is noticed elsewhere, or it may not use these cores now
            os.sched_setaffinity(pid, cores)
