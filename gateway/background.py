"""Output in the background: whoever writes never waits for whoever reads.

A pipe whose reader stalls, a stopped terminal or a slow disk would otherwise stop the event loop, and with it health
checks and signals.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import BinaryIO, Generic, TypeVar, cast

T = TypeVar("T")

MAX_CHARS = 4 << 20
"""What may wait to be written, in characters or bytes."""
GATHER_S = 0.05
"""How long the thread lets lines gather. To wake it for each one would take longer than to write the line."""
FLUSH_S = 1.0
"""How long the end of the process waits for what is not written yet."""


class Background(Generic[T]):
    """A bounded queue of output, and a daemon thread that writes it. Any thread may put.

    Args:
        write: writes items, in order. It may wait for ever. What it raises is lost, and the items with it.
        size: of an item, in characters or bytes.
        describe: the item that says how many were dropped.

    Attributes:
        describe: as given; it may be replaced.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], object],
        size: Callable[[T], int],
        describe: Callable[[int], T],
        max_chars: int = MAX_CHARS,
    ) -> None:
        self.describe = describe
        self._write = write
        self._size = size
        self._max_chars = max_chars
        self._changed: threading.Condition
        self._waiting: deque[T]
        self._chars: int  # of what waits or is being written
        self._dropped: int
        self._thread: threading.Thread | None
        self._reset()
        atexit.register(self.flush, FLUSH_S)
        os.register_at_fork(after_in_child=self._reset)

    def put(self, item: T) -> None:
        """Queue an item. If the queue is full it is dropped, and counted; a later item says how many were."""
        with self._changed:
            if self._chars + self._size(item) > self._max_chars:
                self._dropped += 1
                return
            if self._dropped:
                self._append(self.describe(self._dropped))
                self._dropped = 0
            self._append(item)
            self._changed.notify_all()
            if self._thread is None:
                self._start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is written, or the time is over; return whether it is written."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._chars:
                if (left := deadline - time.monotonic()) <= 0:
                    return False
                self._changed.wait(left)
            return True

    def _reset(self) -> None:
        """Begin without a thread, as after a fork: the parent writes what waits."""
        # Reentrant: the garbage collector may run in the midst of ``put``, and what it ends may log.
        self._changed = threading.Condition(threading.RLock())
        self._waiting = deque()
        self._chars = self._dropped = 0
        self._thread = None

    def _append(self, item: T) -> None:
        self._waiting.append(item)
        self._chars += self._size(item)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        with suppress(RuntimeError):  # the interpreter is ending
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
            time.sleep(GATHER_S)
            with self._changed:
                items = list(self._waiting)
                self._waiting.clear()
            with suppress(Exception):
                self._write(items)
            with self._changed:
                self._chars -= sum(map(self._size, items))
                self._changed.notify_all()


class BackgroundFile(io.RawIOBase):
    """A file that is written in the background. What cannot be written is lost: a full disk stops nothing.

    Attributes:
        output: the queue of what is written.
    """

    def __init__(self, descriptor: int, max_chars: int = MAX_CHARS) -> None:
        self.output = Background[bytes](self._write_all, len, describe_dropped, max_chars)
        self._descriptor = descriptor

    def writable(self) -> bool:
        """See :class:`io.RawIOBase`."""
        return True

    def fileno(self) -> int:
        """See :class:`io.RawIOBase`."""
        return self._descriptor

    def isatty(self) -> bool:
        """See :class:`io.RawIOBase`."""
        return os.isatty(self._descriptor)

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Queue bytes, which are whole lines as a rule."""
        self.output.put(bytes(data))
        return len(data)

    def _write_all(self, pieces: Sequence[bytes]) -> None:
        rest = memoryview(b"".join(pieces))
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def describe_dropped(lines: int) -> bytes:
    """Return the line that says how many were dropped."""
    return f"({lines} lines of output were dropped: they were not read in time)\n".encode()


def write_standard_streams_in_background() -> None:
    """Let all that this process writes to its standard output and error be written in the background."""
    sys.stdout = _stream(1, sys.stdout.encoding)
    sys.stderr = _stream(2, sys.stderr.encoding)


def _stream(descriptor: int, encoding: str) -> io.TextIOWrapper:
    # A line at a time: lines of several threads do not mix.
    return io.TextIOWrapper(
        cast(BinaryIO, BackgroundFile(descriptor)),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
