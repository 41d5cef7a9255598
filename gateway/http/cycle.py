"""One request on a connection and its answer, as ASGI sees them: uvicorn's, with what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Cycle(RequestResponseCycle):
    """A request and its answer.

    An answer that is given before the whole request has come is the last one of its connection: what is still
    to come could be anything.

    Attributes:
        held: bytes of the body that have come, and of the answer once it has begun.

    Args:
        is_last: tells whether the answer that begins now is the last one of the connection.
        begins: is told how many bytes it has, where it says so itself.
    """

    def __init__(
        self, *, is_last: Callable[[], bool], begins: Callable[[int], object], **options: Any
    ) -> None:
        super().__init__(**options)
        self.held = 0
        self._is_last = is_last
        self._begins = begins

    def take(self, body: bytes) -> None:
        """Take a part of the body, for whoever reads it; pause the connection while nobody does."""
        self.held += len(body)
        self.body += body
        if len(self.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        """Send a part of the answer."""
        if not self.response_started and not self.disconnected:
            if self.more_body or self._is_last():
                self.keep_alive = False  # and uvicorn says so
            headers = dict(message.get("headers", ()))
            self._begins(int(headers.get(b"content-length", 0)))
        return super().send(message)
