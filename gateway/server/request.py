"""A request and its response, as the application sees them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple, Protocol

from embeddings_gateway.errors import BodyTooLarge, ClientGone, DeadlinePassed, GatewayError
from embeddings_gateway.server.writer import Writer

Headers = list[tuple[bytes, bytes]]

BODILESS = frozenset({204, 304})
STATUS_LINES = {int(status): f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Head(NamedTuple):
    """The head of a request.

    Attributes:
        path: decoded; ``raw_path`` is the original.
        headers: in the order of arrival, with names in lower case.
        fields: the headers by name; the last one if a name is repeated.
        keep_alive: whether the connection may stay open after the response.
        arrived: when the head was complete; monotonic seconds.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    headers: Headers
    fields: dict[bytes, bytes]
    keep_alive: bool
    arrived: float


class Channel(Protocol):
    """The connection of a request."""

    writer: Writer

    def body_wanted(self, request: Request) -> None:
        """Receive the rest of the body."""

    def reserve(self, request: Request, length: int) -> None:
        """Count the bytes of a response before they exist."""

    def response_begins(self, request: Request, length: int) -> bytes:
        """Begin a response of ``length`` bytes; return header lines to add to it."""

    def response_ends(self, request: Request) -> None:
        """Continue with the next request."""


@dataclass(slots=True, eq=False)
class Request:
    """One request on a connection.

    Attributes:
        keep_alive: whether the connection stays open after the response.
        peer: the client, as far as its address says.
        task: answers the request; ``None`` while the request waits for earlier ones.
        complete: whether the body has arrived completely.
        reading: whether :meth:`read` was called.
        refusal: why the connection receives no more of the body, if it does not.
        gone: whether the client disconnected.
        started, ended: whether the response has begun, and is complete.
        held: bytes in memory: of the body, and of the response.
        reserved: bytes of the response that are held before it begins.
    """

    _channel: Channel
    head: Head
    keep_alive: bool
    peer: str = ""
    task: asyncio.Task[None] | None = None
    complete: bool = False
    reading: bool = False
    refusal: GatewayError | None = None
    gone: bool = False
    started: bool = False
    ended: bool = False
    held: int = 0
    reserved: int = 0
    _body: bytearray = field(default_factory=bytearray)
    _max_bytes: int = 0
    _waiter: asyncio.Future[None] | None = None
    _response_head: bytes = b""

    async def read(self, max_bytes: int, deadline: float) -> bytearray:
        """Return the whole body. To be called once.

        Args:
            max_bytes: the limit on its size.
            deadline: monotonic seconds.

        Raises:
            BodyTooLarge: it is larger than the limit.
            DeadlinePassed: it is not complete at the deadline.
            GatewayError: the connection refused the rest of it.
            ClientGone: the client disconnected before it was complete.
        """
        self._max_bytes = max_bytes
        self.reading = True
        if int(self.head.fields.get(b"content-length", b"0")) > max_bytes:
            raise _too_large(max_bytes)
        if not (self.complete or self.gone or self.refusal or len(self._body) > max_bytes):
            await self._receive(deadline)
        if self.refusal is not None:
            raise self.refusal
        if self.gone:
            raise ClientGone
        if len(self._body) > max_bytes:
            raise _too_large(max_bytes)
        body, self._body = self._body, bytearray()
        return body

    def reserve(self, length: int) -> None:
        """Make sure that there will be room for a response of about ``length`` bytes. To be called once.

        Raises:
            Overloaded, InvalidRequest: there is none now, or never.
        """
        self._channel.reserve(self, length)

    async def respond(self, status: int, lines: bytes, pieces: Sequence[bytes]) -> None:
        """Send a whole response. Other tasks run between two pieces of its body.

        ``lines`` are its header lines without ``content-length``.
        """
        length = sum(map(len, pieces))
        self.start(status, b"%bcontent-length: %d\r\n" % (lines, length), length)
        for piece in pieces[:-1]:
            await self.write(piece)
            await asyncio.sleep(0)
        await self.write(pieces[-1], last=True)

    def start(self, status: int, lines: bytes, length: int | None) -> None:
        """Begin a response. Its head is sent with the first part of the body.

        ``length`` is the content-length in ``lines``; ``None`` if there is none, so that closing ends the body.
        """
        self.started = True
        if length is None and status not in BODILESS:
            self.keep_alive = False
        more = self._channel.response_begins(self, length or 0)
        self._response_head = b"%b%b%b\r\n" % (STATUS_LINES[status], lines, more)

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Write a part of the body."""
        if self.gone:
            return
        if self.head.method == "HEAD":
            data = b""
        head, self._response_head = self._response_head, b""
        writer = self._channel.writer
        writer.write(head, data)
        await writer.drained()
        if last:
            self.ended = True
            self._channel.response_ends(self)

    # Called by the connection.

    def receive(self, data: bytes) -> int:
        """Add a part of the body; return the bytes that are not read yet."""
        self._body += data
        if self._waiter is not None and len(self._body) > self._max_bytes:
            self._wake()
        return len(self._body)

    def end_body(self) -> None:
        """Complete the body."""
        self.complete = True
        self._wake()

    def refuse(self, error: GatewayError) -> None:
        """Make :meth:`read` fail with an error."""
        self.refusal = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _receive(self, deadline: float) -> None:
        """Wait until the body is complete, too large or refused."""
        self._channel.body_wanted(self)
        self._waiter = asyncio.get_running_loop().create_future()
        seconds = None if deadline == math.inf else deadline - time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await self._waiter
        except TimeoutError:
            raise DeadlinePassed from None
        finally:
            self._waiter = None


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body has at most {max_bytes} bytes.")


class Application(Protocol):
    """Answers requests."""

    async def __call__(self, request: Request) -> None:
        """Answer a request. Raises only CancelledError, after the response has begun.

        The task is cancelled when the client disconnects (``request.gone``) or the server stops.
        """

    def is_probe(self, head: Head) -> bool:
        """Return whether a request asks for the gateway's health, so that it is answered also without room."""

    def refusal(self, error: GatewayError) -> tuple[int, bytes, bytes]:
        """Return status, header lines and body for an error that belongs to no request."""
