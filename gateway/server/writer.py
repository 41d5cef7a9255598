"""The way out of a connection: how long a client may take to read, and closing in two steps."""

from __future__ import annotations

import asyncio
import math
import time

MIN_SEND_BYTES_PER_S = 256 << 10  # at which a response has to be taken, beside the time of the timeout
MAX_JOINED_BYTES = 64 << 10  # of a part that is copied to be joined with another


class Writer:
    """Writes to a transport.

    A connection that is closed while bytes of its client are unread is reset, and the client loses the
    response. So ``half_close`` closes only the way out, and the owner calls ``abort`` later.

    Attributes:
        deadline: when the client has to have taken what was written; monotonic seconds.
    """

    def __init__(self, transport: asyncio.Transport, send_timeout_s: float) -> None:
        self.deadline = math.inf
        self._transport = transport
        self._send_timeout_s = send_timeout_s
        self._taken_by = math.inf
        self._half_closed = False
        self._is_paused = False
        self._resumed: asyncio.Future[None] | None = None

    @property
    def closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._half_closed or self._transport.is_closing()

    @property
    def unsent_bytes(self) -> int:
        """How much the system has not taken yet."""
        return self._transport.get_write_buffer_size()

    def begin_response(self, length: int) -> None:
        """Set the time in which a client has to take a response of so many bytes."""
        self._taken_by = time.monotonic() + self._send_timeout_s + length / MIN_SEND_BYTES_PER_S

    def write(self, head: bytes, data: bytes = b"") -> None:
        """Write both as one, unless the way out is closed."""
        if self.closing:
            return
        if len(data) < MAX_JOINED_BYTES:
            self._transport.write(head + data)
        else:
            self._transport.writelines((head, data))

    async def drained(self) -> None:
        """Wait for a client that reads slowly. Only the response that is being sent waits."""
        while self._is_paused:
            self._resumed = asyncio.get_running_loop().create_future()
            await self._resumed

    def pause(self) -> None:
        """Hear that the client does not take what was written."""
        self._is_paused = True
        self.deadline = min(self.deadline, time.monotonic() + self._send_timeout_s, self._taken_by)

    def resume(self) -> None:
        """Hear that it has taken it."""
        self._is_paused = False
        if not self.closing:
            self.deadline = math.inf
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def half_close(self) -> None:
        """Close the way out, after what was written."""
        self.limit_sending()
        self._half_closed = True
        self._transport.write_eof()

    def close(self) -> None:
        """Close both ways, after what was written, to a client that sends nothing."""
        self.limit_sending()
        self._transport.close()

    def abort(self) -> None:
        """Close both ways at once."""
        self._transport.abort()

    def limit_sending(self) -> None:
        """Give the client its time to take what is left, from now on."""
        self.deadline = min(self.deadline, time.monotonic() + self._send_timeout_s)
