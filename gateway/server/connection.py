"""One HTTP/1.1 connection: answers its requests in order, and refuses what it must.

A connection has two deadlines: its own, for what the client has to send, and its writer's, for what the client has to
read. They need no timers: ``server`` checks the deadlines of all connections four times a second.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import cast

from embeddings_gateway.errors import (
    BodyTimeout,
    GatewayError,
    HeadTimeout,
    InvalidRequest,
    Overloaded,
    RetryAfter,
)
from embeddings_gateway.log import get_logger
from embeddings_gateway.server.limits import Limits, too_many_connections
from embeddings_gateway.server.parser import RequestParser
from embeddings_gateway.server.peer import peer_of
from embeddings_gateway.server.request import STATUS_LINES, Application, Head, Request
from embeddings_gateway.server.writer import Writer

MAX_PIPELINED = 100  # requests that wait on one connection, in memory
MIN_BODY_BYTES_PER_S = 32 << 10  # each byte of a body gives its client so much more time for the next ones
MAX_UNREAD_BYTES = 64 << 10  # of a body before its handler reads it
HALF_CLOSE_S = 0.1  # so soon after a request a client may close its sending side and still read the response
MAX_HALF_CLOSE_S = 2.0  # within which the response to such a client has to begin
LINGER_S = 1.0  # a closing connection stays open until the client has been silent for this time
MAX_LINGER_S = 5.0  # but no longer than this, if the client goes on sending, such as a body that is too large
MAX_LATE_LINGER_S = 0.5  # the same for a client that missed a deadline

log = get_logger()


class Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        deadline: by when the client has to send the next part; monotonic seconds.
        writer: the sending side.
        current: the request that is being answered.
    """

    writer: Writer

    def __init__(self, app: Application, limits: Limits[Connection]) -> None:
        self.deadline = math.inf
        self.current: Request | None = None
        self._app = app
        self._limits = limits
        self._config = limits.config
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(
            self.head_begins, self.request_begins, self.body_received, self.request_ends
        )
        self._incoming: Request | None = None  # the latest; its body may still be arriving
        self._waiting: deque[Request] = deque()  # behind the current request
        self._refusal: bytes | None = None  # the last response, once there is one: no more input is parsed
        self._in_head = False
        self._is_reading = True
        self._is_late = False
        self._is_spare = False
        self._linger_until = math.inf
        self._complete_at = -math.inf  # when the latest request had arrived, if it is small
        self._is_half_closed = False  # by the client
        self._held = 0

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the idle timeout, and make room for the connection. There are four cases if there are too many.

        1. The one that has been idle for the longest time is closed instead.
        2. None is idle: this one is for probes of the gateway's health alone.
        3. There are enough of these, too: it takes the place of one that is idle, or is refused.
        4. Many more come: they are closed at once, since they take open files that workers need.
        """
        self._transport = cast(asyncio.Transport, transport)
        self.writer = Writer(self._transport, self._config.send_timeout_s)
        self._peer = peer_of(self._transport)
        self._limits.connections.add(self)
        self._set_deadline(self._config.idle_timeout_s)
        room = self._limits.room
        if room != "all" and (idle := self._limits.long_idle()) is not None:
            idle.close_idle()
        elif room == "probes":
            self._is_spare = True
        elif room != "all" and (idle := self._limits.long_idle_spare()) is not None:
            idle.close_idle()
            self._is_spare = True
        elif room == "refusal":
            self._refuse(too_many_connections())
            return
        elif room == "nothing":
            self.writer.abort()
            return
        self._begin_idle()

    def data_received(self, data: bytes) -> None:
        """Parse the data. After the last response it is ignored."""
        if self.writer.closing:
            self.deadline = min(time.monotonic() + LINGER_S, self._linger_until)
        elif self._refusal is None:
            try:
                self._parser.feed(data)
            except GatewayError as error:
                self._refuse(error)

    def eof_received(self) -> bool:
        """Close the connection once the client has read what was written: it sends no more.

        A client that only closed its sending side looks the same as one that is gone, until something is written. The
        first kind does it right after its request, and may have the response, if little was asked.
        """
        request, is_soon = self.current, time.monotonic() < self._complete_at + HALF_CLOSE_S
        self._is_half_closed = bool(request and request.complete and is_soon and not self.writer.closing)
        if self._is_half_closed:
            self._set_deadline(math.inf if request and request.started else MAX_HALF_CLOSE_S)
        else:
            self.writer.limit_sending()
            self._set_deadline(0)
        return self._is_half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the current request: the client disconnected."""
        self._limits.connections.discard(self)
        self._end_idle()
        self._limits.bytes -= self._held
        self._held = 0
        if self.current is not None:
            self._abandon(self.current)

    def pause_writing(self) -> None:
        """Stop writing until the client reads."""
        self.writer.pause()

    def resume_writing(self) -> None:
        """Continue writing."""
        self.writer.resume()

    # Called by the parser.

    def head_begins(self) -> None:
        """Start the timeout of a head, unless another request is being answered."""
        self._in_head = True
        self._end_idle()
        if self.current is None:
            self._set_deadline(self._config.head_timeout_s)

    def request_begins(self, head: Head) -> None:
        """Start the request, or queue it behind the current one."""
        self._in_head = False
        if len(self._waiting) >= MAX_PIPELINED:
            raise Overloaded(
                "A connection has too many requests waiting on it.", retry_after=RetryAfter.CONNECTIONS
            )
        if self._is_spare and self._limits.room != "all" and not self._app.is_probe(head):
            raise too_many_connections()
        request = self._incoming = Request(self, head, head.keep_alive, self._peer)
        if self.current is None:
            self._start(request)
        else:
            self._waiting.append(request)
            self._pause_reading()

    def body_received(self, data: bytes) -> None:
        """Hand a part of the body to its request; refuse the request if all connections hold too many bytes."""
        request = cast(Request, self._incoming)
        if request.ended or request.refusal is not None:  # the rest of the body is ignored
            return
        self._hold(request, len(data))
        if request is self.current:  # it may stop for the timeout, or fall so far behind the rate
            latest = time.monotonic() + self._config.body_timeout_s
            self.deadline = min(self.deadline + len(data) / MIN_BODY_BYTES_PER_S, latest)
        unread = request.receive(data)
        if error := self._limits.too_many_bytes(request.held):
            if request is not self.current:
                raise error
            self._stop_receiving(request, error)
        elif unread > MAX_UNREAD_BYTES and not request.reading:
            self._pause_reading()

    def request_ends(self) -> None:
        """Complete the body. Reading goes on, to notice when the client disconnects."""
        request = cast(Request, self._incoming)
        request.end_body()
        self._complete_at = time.monotonic() if request.held <= MAX_UNREAD_BYTES else -math.inf
        if request is self.current:
            self.deadline = math.inf
        self._resume_reading()

    # Called by a request.

    def body_wanted(self, request: Request) -> None:
        """Receive the rest of the body; if the client expects it, send 100 Continue, which HTTP/1.0 has not."""
        expects = request.head.fields.get(b"expect", b"").lower() == b"100-continue"
        if expects and request.head.version != "1.0":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._resume_reading()

    def reserve(self, request: Request, length: int) -> None:
        """Count the bytes of a response before they exist, so that what is computed can be held.

        Raises:
            Overloaded: there is no room for them now.
            InvalidRequest: there will never be.
        """
        if length > (room := self._limits.room_for_bytes(length)):
            message = f"The answer would have about {length} bytes, and the gateway holds {room}: send fewer inputs."
            raise InvalidRequest(message, "input")
        self._hold(request, length)
        request.reserved = length
        if error := self._limits.too_many_bytes(request.held):
            raise error

    def response_begins(self, request: Request, length: int) -> bytes:
        """Count the bytes of a response; return its date and connection header lines.

        The connection closes after it if the request has not arrived completely: the rest cannot be trusted.
        """
        self.writer.begin_response(length)
        self._hold(request, length - request.reserved)
        is_last = (self._limits.draining or self._is_half_closed) and not self._waiting
        if self._is_half_closed:
            self.deadline = math.inf
        if is_last or not request.complete or request.refusal is not None:
            request.keep_alive = False
        return self._limits.date if request.keep_alive else self._limits.date + b"connection: close\r\n"

    def response_ends(self, request: Request) -> None:
        """Continue with the next request, or with the refusal of what followed this one."""
        self._hold(request, -request.held)
        self.current = None
        if self.writer.closing:
            return
        if not request.keep_alive and self._is_half_closed:
            self.close_idle()
        elif not request.keep_alive:
            self._end(b"")
        elif self._waiting:
            self._start(self._waiting.popleft())
        elif self._refusal is not None:
            self._end(self._refusal)
        else:
            self._set_deadline(self._config.head_timeout_s if self._in_head else self._config.idle_timeout_s)
            if not self._in_head:
                self._begin_idle()
        self._resume_reading()

    # Called by the server.

    def expire(self, now: float) -> None:
        """Handle a deadline that has passed: refuse the request, wait for the client to read, or abort."""
        if now < self.writer.deadline and not self.writer.closing:
            self._is_late = True
            self._expire_request()
        elif now < self.writer.deadline and self.writer.unsent_bytes:
            self.deadline = now + LINGER_S
        else:
            self.writer.abort()

    def drain(self) -> None:
        """Cancel the current request if its body has not arrived completely."""
        if self.current is not None and not self.current.complete:
            self._cancel(self.current)

    def close_idle(self) -> None:
        """Close the connection, which has no request."""
        self._end_idle()
        if not self.writer.closing:
            self._set_deadline(0)
            self.writer.close()

    def shutdown(self) -> None:
        """Cancel the current request, or close an idle connection."""
        if self.current is not None:
            self._cancel(self.current)
        else:
            self.close_idle()

    # The steps of a request.

    def _start(self, request: Request) -> None:
        """Make a request the current one. Its body may still be arriving."""
        self.current = request
        self.deadline = math.inf if request.complete else time.monotonic() + self._config.body_timeout_s
        request.task = self._loop.create_task(self._run(request))

    async def _run(self, request: Request) -> None:
        try:
            await self._app(request)
        finally:
            if not (request.ended or request.gone):  # the response is incomplete
                self.writer.abort()

    def _stop_receiving(self, request: Request, error: GatewayError) -> None:
        self.deadline = math.inf
        request.refuse(error)

    def _abandon(self, request: Request) -> None:
        """Cancel a request whose client is gone."""
        request.gone = True
        self._cancel(request)

    def _cancel(self, request: Request) -> None:
        """Cancel a request, after its task has begun: a task that never ran responds and logs nothing."""
        if request.task is not None:
            self._loop.call_soon(request.task.cancel)

    def _expire_request(self) -> None:
        """Refuse an incomplete request, or close an idle connection."""
        if self._is_half_closed:
            self.writer.abort()
        elif self.current is not None:
            self._stop_receiving(self.current, BodyTimeout("The body was not received in time."))
        elif self._in_head:
            self._refuse(HeadTimeout("The head of the request was not received in time."))
        else:
            self.close_idle()

    def _refuse(self, error: GatewayError) -> None:
        """Respond with an error and close, after the responses to earlier requests."""
        log.warning("connection refused", reason=error.message)
        status, lines, body = self._app.refusal(error)
        end = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self._refusal = b"".join([STATUS_LINES[status], lines, self._limits.date, end, body])
        request = self._incoming
        if self.current is None or request is None:
            self._end(self._refusal)
        elif request.complete:  # earlier requests are answered first
            self._pause_reading()
        elif request is not self.current:  # it is invalid and has not begun
            self._hold(request, -request.held)
            self._waiting.pop()
        else:  # it has begun: its own response, if begun, is the last
            self._end(b"" if request.started else self._refusal)
            self._abandon(request)

    # Closing.

    def _end(self, response: bytes) -> None:
        """Send a last response and close the sending side; the client can read it while it still sends."""
        if self.writer.closing:
            return
        self._end_idle()
        if response:
            self.writer.write(response)
        self.writer.half_close()
        self._linger_until = time.monotonic() + (MAX_LATE_LINGER_S if self._is_late else MAX_LINGER_S)
        self.deadline = min(time.monotonic() + LINGER_S, self._linger_until)
        self._resume_reading()

    def _begin_idle(self) -> None:
        idle = self._limits.idle_spare if self._is_spare else self._limits.idle
        idle[self] = time.monotonic()

    def _end_idle(self) -> None:
        idle = self._limits.idle_spare if self._is_spare else self._limits.idle
        idle.pop(self, None)

    def _set_deadline(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def _hold(self, request: Request, count: int) -> None:
        """Count bytes of a body or response in memory, until the client is gone; a negative count releases them."""
        if request.gone:  # its task goes on until the cancellation reaches it
            return
        request.held += count
        self._held += count
        self._limits.bytes += count

    def _pause_reading(self) -> None:
        if self._is_reading and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        """Resume reading, unless requests wait."""
        may_read = not self._waiting or self.writer.closing
        if may_read and not self._is_reading and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()
