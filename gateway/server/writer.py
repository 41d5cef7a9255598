"""The sending side of a connection: deadlines for the client to read, and closing in two steps."""

from __future__ import annotations

import asyncio
import math
import time

MIN_SEND_BYTES_PER_S = 256 << 10  # the timeout of a response grows with its length at this rate
MAX_JOINED_BYTES = 64 << 10  # larger bodies are not copied to be joined with their head


class Writer:
    """Writes to a transport.

    Closing a connection while bytes from the client are unread resets it, and the client loses the response. So
    ``half_close`` closes the sending side only, and the owner calls ``abort`` later.

    Attributes:
        deadline: by when the client has to read what was written; monotonic seconds.
    """

    def __init__(self, transport: asyncio.Transport, send_timeout_s: float) -> None:
        self.deadline = math.inf
        self._transport = transport
        self._send_timeout_s = send_timeout_s
        self._response_deadline = math.inf
        self._half_closed = False
        self._is_paused = False
        self._resumed: asyncio.Future[None] | None = None

    @property
    def closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._half_closed or self._transport.is_closing()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the operating system has not accepted yet."""
        return self._transport.get_write_buffer_size()

    def begin_response(self, length: int) -> None:
        """Set the deadline for a response of ``length`` bytes."""
        self._response_deadline = time.monotonic() + self._send_timeout_s + length / MIN_SEND_BYTES_PER_S

    def write(self, head: bytes, data: bytes = b"") -> None:
        """Write ``head`` and ``data`` together, unless the sending side is closed."""
        if self.closing:
            return
        if len(data) < MAX_JOINED_BYTES:
            self._transport.write(head + data)
        else:
            self._transport.writelines((head, data))

    async def drained(self) -> None:
        """Wait while the client reads too slowly. Only the task of the current response waits."""
        while self._is_paused:
            self._resumed = asyncio.get_running_loop().create_future()
            await self._resumed

    def pause(self) -> None:
        """Make writers wait: the client does not read what was written."""
        self._is_paused = True
        self.deadline = min(self.deadline, time.monotonic() + self._send_timeout_s, self._response_deadline)

    def resume(self) -> None:
        """Let writers continue: the client has read most of what was written."""
        self._is_paused = False
        if not self.closing:
            self.deadline = math.inf
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def half_close(self) -> None:
        """Close the sending side, after what was written."""
        self.limit_sending()
        self._half_closed = True
        self._transport.write_eof()

    def close(self) -> None:
        """Close both sides, after what was written. The client must have sent nothing unread."""
        self.limit_sending()
        self._transport.close()

    def abort(self) -> None:
        """Close both sides at once."""
        self._transport.abort()

    def limit_sending(self) -> None:
        """Start the timeout for the client to read the rest."""
        self.deadline = min(self.deadline, time.monotonic() + self._send_timeout_s)
