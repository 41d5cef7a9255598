"""The way out of a connection: what is written in one turn of the event loop leaves as one.

An ASGI server writes a response's head by itself and then its body, each a call of the system and a packet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

BYTES_MAX = 64 << 10
"""More is passed on at once, so that the transport below can pause whoever writes to a slow reader."""


class JoiningTransport:
    """A transport that joins small writes and closes in two steps; in all else it is the one it stands for.

    A connection that is closed with bytes in it that nobody has read is reset, and its client loses what it
    has not read yet itself. So only the way out is closed at first.

    Args:
        transport: the one below.
        ended: is called when the way out has been closed: who calls ``abort`` ends the rest.
    """

    def __init__(self, transport: asyncio.Transport, ended: Callable[[], None]) -> None:
        self._transport = transport
        self._told = ended
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._written: list[bytes] = []
        self._bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write before the loop turns again."""
        if self._ended:
            return
        self._written.append(data)
        self._bytes += len(data)
        if self._bytes > BYTES_MAX:
            self.flush()
        elif len(self._written) == 1:
            self._loop.call_soon(self.flush)

    def is_closing(self) -> bool:
        """Tell whether nothing more can be written."""
        return self._ended or self._transport.is_closing()

    def close(self) -> None:
        """Close the way out, after what was written."""
        self.flush()
        if not self.is_closing():
            self._ended = True
            self._transport.write_eof()
            self._told()

    def leave(self) -> None:
        """Close both ways, after what was written, to a client that sends nothing."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Pass on what was written."""
        written, self._written, self._bytes = self._written, [], 0
        if written and not self._transport.is_closing():
            self._transport.writelines(written)
