"""What a connection waits for and until when, and how it ends.

There is no timer for a request. A connection has two deadlines, set where it comes to wait for something, and
:func:`sweep` looks at those of all connections now and then. Whose turn it is, is left to ``protocol``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Any, cast

from embeddings_gateway.config import ServerConfig
from embeddings_gateway.http.parsing import Parsing
from embeddings_gateway.http.transport import JoiningTransport
from embeddings_gateway.log import get_logger

SEND_BYTES_PER_S_MIN = 256 << 10
"""An answer has to be taken at this speed, beside the time that its client may take nothing at all."""

LINGER_S = 1.0
"""How long a client whose connection ends may be silent, and still read what it has been told."""

LINGER_S_MAX = 5.0
"""How long it may go on to send meanwhile: a body that is too large is still on its way."""

LINGER_S_LATE = 0.5
"""How long one may that was too slow already."""

log = get_logger()


class Waiting(Parsing):
    """A connection with deadlines.

    Attributes:
        deadline: when what the client has to do next has to be done; monotonic seconds.
        send_deadline: when it has to have taken what was written.
        server_config: how long each of these may take.
    """

    def __init__(self, *args: Any, server: ServerConfig, **options: Any) -> None:
        super().__init__(*args, **options)
        self.server_config = server
        self.deadline = self.send_deadline = math.inf
        self._taken_by = math.inf
        self._closed_by = math.inf
        self._is_late = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a connection."""
        self._joining = JoiningTransport(transport, self._linger)
        super().connection_made(cast(asyncio.Transport, self._joining))
        self.wait(self.server_config.idle_timeout_s)

    @property
    def ending(self) -> bool:
        """Whether nothing more can be answered."""
        return self._joining.is_closing()

    def wait(self, seconds: float) -> None:
        """Give the client so much time from now on."""
        self.deadline = time.monotonic() + seconds

    def answer_begins(self, length: int) -> None:
        """Bound the time in which the client has to take an answer of so many bytes."""
        seconds = self.server_config.send_timeout_s + length / SEND_BYTES_PER_S_MIN
        self._taken_by = time.monotonic() + seconds

    def late(self) -> None:
        """Do what is to be done when the client has not done in time what it has to do."""
        raise NotImplementedError

    def end(self, last: bytes) -> None:
        """Say the last words, and let the client read them."""
        if not self.ending:
            self._joining.write(last)
            self._joining.close()

    def leave(self) -> None:
        """Close a connection on which nothing is asked."""
        if not self.ending:
            self._bound_sending()
            self.wait(0)
            self._joining.leave()

    def data_received(self, data: bytes) -> None:
        """Parse what came; behind the last answer it is passed over."""
        if self.ending:
            self.deadline = min(time.monotonic() + LINGER_S, self._closed_by)
        else:
            super().data_received(data)

    def eof_received(self) -> None:
        """End with a client that sends no more, once it has taken what was written."""
        self._joining.flush()
        self._bound_sending()
        self.wait(0)

    def pause_writing(self) -> None:
        """Wait for a client that does not take what was written."""
        super().pause_writing()
        self._bound_sending()
        self.send_deadline = min(self.send_deadline, self._taken_by)

    def resume_writing(self) -> None:
        """Go on: it has taken it."""
        super().resume_writing()
        if not self.ending:
            self.send_deadline = math.inf

    def expire(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if now >= self.send_deadline:
            self.transport.abort()
        elif not self.ending:
            self._is_late = True
            self.late()
        elif self.transport.get_write_buffer_size():
            self.deadline = now + LINGER_S
        else:
            self.transport.abort()

    def _linger(self) -> None:
        """Let the client read the last words: it would lose them, were it cut off while it still sends."""
        self._bound_sending()
        self._closed_by = time.monotonic() + (LINGER_S_LATE if self._is_late else LINGER_S_MAX)
        self.deadline = min(time.monotonic() + LINGER_S, self._closed_by)
        self.flow.resume_reading()

    def _bound_sending(self) -> None:
        self.send_deadline = min(self.send_deadline, time.monotonic() + self.server_config.send_timeout_s)


def sweep(connections: Iterable[Waiting], now: float) -> None:
    """Act on the deadlines that have passed."""
    for one in [one for one in connections if one.deadline <= now or one.send_deadline <= now]:
        try:
            one.expire(now)
        except Exception:  # a mistake of ours: others shall have their deadlines, and this one shall end
            log.exception("connection failed to expire")
            one.transport.abort()
