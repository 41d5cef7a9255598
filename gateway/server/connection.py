"""One HTTP/1.1 connection: its requests, answered one after the other, and what is refused of them.

There is no timer for a request. A connection has two deadlines: its own for what the client has to send, and
its writer's for what the client has to take. ``server`` looks at those of all connections now and then.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import cast

from embeddings_gateway.errors import BodyTimeout, GatewayError, HeadTimeout, Overloaded
from embeddings_gateway.log import get_logger
from embeddings_gateway.server.limits import RETRY_S, Limits
from embeddings_gateway.server.parser import RequestParser
from embeddings_gateway.server.request import STATUS_LINES, Application, Head, Request
from embeddings_gateway.server.writer import Writer

MAX_PIPELINED = 100  # requests that wait on one connection for their turn; they are held in memory
MAX_UNREAD_BYTES = 64 << 10  # of a body that nobody reads yet
LINGER_S = 1.0  # how long a client whose connection ends may be silent, and still read its last response
MAX_LINGER_S = 5.0  # how long it may still send meanwhile: a body that is too large is on its way
MAX_LATE_LINGER_S = 0.5  # the same for a client that was too slow already

log = get_logger()


class Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        deadline: when the client has to have done what it does next; monotonic seconds.
        writer: the way out.
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
        self._incoming: Request | None = None  # of which the body may still be on its way
        self._waiting: deque[Request] = deque()
        self._last_words: bytes | None = None  # after them nothing is read
        self._in_head = False
        self._is_reading = True
        self._is_late = False
        self._linger_until = math.inf
        self._held = 0

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many connections."""
        self._transport = cast(asyncio.Transport, transport)
        self.writer = Writer(self._transport, self._config.send_timeout_s)
        self._limits.connections.add(self)
        self._wait(self._config.idle_timeout_s)
        if error := self._limits.too_many_connections():
            self._refuse(error)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; behind the last words it is ignored."""
        if self.writer.closing:
            self.deadline = min(time.monotonic() + LINGER_S, self._linger_until)
        elif self._last_words is None:
            try:
                self._parser.feed(data)
            except GatewayError as error:
                self._refuse(error)

    def eof_received(self) -> None:
        """End with a client that sends no more, once it has taken what was written."""
        self.writer.limit_sending()
        self._wait(0)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and cancel the work for a client that is gone."""
        self._limits.connections.discard(self)
        self._limits.bytes -= self._held
        self._held = 0
        if self.current is not None:
            self._abandon(self.current)

    def pause_writing(self) -> None:
        """Wait for a client that does not take what was written."""
        self.writer.pause()

    def resume_writing(self) -> None:
        """Go on writing."""
        self.writer.resume()

    # What the parser tells.

    def head_begins(self) -> None:
        """Bound the time of a head; while another request is answered, it has time."""
        self._in_head = True
        if self.current is None:
            self._wait(self._config.head_timeout_s)

    def request_begins(self, head: Head) -> None:
        """Begin to answer a request, or let it wait for its turn."""
        self._in_head = False
        if len(self._waiting) >= MAX_PIPELINED:
            raise Overloaded("A connection has too many requests waiting on it.", retry_after=RETRY_S)
        request = self._incoming = Request(self, head, head.keep_alive)
        if self.current is None:
            self._start(request)
        else:
            self._waiting.append(request)
            self._pause_reading()

    def body_received(self, data: bytes) -> None:
        """Take a part of a body, as long as there is room for it."""
        request = cast(Request, self._incoming)
        if request.ended or request.refusal is not None:
            return
        self._hold(request, len(data))
        unread = request.receive(data)
        if error := self._limits.too_many_bytes():
            if request is not self.current:
                raise error
            self._stop_receiving(request, error)
        elif unread > MAX_UNREAD_BYTES and not request.reading:
            self._pause_reading()

    def request_ends(self) -> None:
        """Take the end of a body; go on reading, for a client that goes is to be noticed."""
        request = cast(Request, self._incoming)
        request.end_body()
        if request is self.current:
            self.deadline = math.inf
        self._resume_reading()

    # What a request asks for.

    def body_wanted(self, request: Request) -> None:
        """Receive the rest of a body, for which the client may want to be asked."""
        if request.head.fields.get(b"expect", b"").lower() == b"100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._resume_reading()

    def response_begins(self, request: Request, length: int) -> bytes:
        """Count a response; return the header lines that tell when, and whether the connection ends with it.

        It ends if the request has not arrived as a whole: what is still to come could be anything.
        """
        self.writer.begin_response(length)
        self._hold(request, length)
        is_last = self._limits.draining and not self._waiting
        if is_last or not request.complete or request.refusal is not None:
            request.keep_alive = False
        return self._limits.date if request.keep_alive else self._limits.date + b"connection: close\r\n"

    def response_ends(self, request: Request) -> None:
        """Go on with the next request, or with the refusal of what followed this one."""
        self._hold(request, -request.held)
        self.current = None
        if self.writer.closing:
            return
        if not request.keep_alive:
            self._end(b"")
        elif self._waiting:
            self._start(self._waiting.popleft())
        elif self._last_words is not None:
            self._end(self._last_words)
        else:
            self._wait(self._config.head_timeout_s if self._in_head else self._config.idle_timeout_s)
        self._resume_reading()

    # What the server asks for.

    def expire(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if now < self.writer.deadline and not self.writer.closing:
            self._is_late = True
            self._expire_request()
        elif now < self.writer.deadline and self.writer.unsent_bytes:
            self.deadline = now + LINGER_S
        else:
            self.writer.abort()

    def drain(self) -> None:
        """Cancel a request whose body is still on its way."""
        if self.current is not None and not self.current.complete:
            self._cancel(self.current)

    def shutdown(self) -> None:
        """Cancel what is being answered, and close if there is nothing."""
        if self.current is not None:
            self._cancel(self.current)
        else:
            self._leave()

    # The steps of a request.

    def _start(self, request: Request) -> None:
        """Begin to answer a request, of which the body may still be on its way."""
        self.current = request
        self.deadline = math.inf if request.complete else time.monotonic() + self._config.body_timeout_s
        request.task = self._loop.create_task(self._run(request))

    async def _run(self, request: Request) -> None:
        try:
            await self._app(request)
        finally:
            if not (request.ended or request.gone):  # a response that began and was cut off
                self.writer.abort()

    def _stop_receiving(self, request: Request, error: GatewayError) -> None:
        """Let whoever reads a body fail."""
        self.deadline = math.inf
        request.refuse(error)

    def _abandon(self, request: Request) -> None:
        """Cancel a request that nobody waits for."""
        request.gone = True
        self._cancel(request)

    def _cancel(self, request: Request) -> None:
        """Cancel a request once its task has begun: cancelled before, it would answer and log nothing."""
        if request.task is not None:
            self._loop.call_soon(request.task.cancel)

    def _expire_request(self) -> None:
        """Refuse a request of which a part is missing; leave a client that asks nothing."""
        if self.current is not None:
            self._stop_receiving(self.current, BodyTimeout("The body was not received in time."))
        elif self._in_head:
            self._refuse(HeadTimeout("The head of the request was not received in time."))
        else:
            self._leave()

    def _refuse(self, error: GatewayError) -> None:
        """Answer with an error and close, after the responses to the requests that came before."""
        log.warning("connection refused", reason=error.message)
        status, lines, body = self._app.refusal(error)
        end = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self._last_words = b"".join([STATUS_LINES[status], lines, self._limits.date, end, body])
        request = self._incoming
        if self.current is None or request is None:
            self._end(self._last_words)
        elif request.complete:  # it is answered first
            self._pause_reading()
        elif request is not self.current:  # it is broken, waits behind others, and never begins
            self._waiting.pop()
        else:  # it has begun: it has its response, or this is it
            self._end(b"" if request.started else self._last_words)
            self._abandon(request)

    # The ways to end.

    def _end(self, last_words: bytes) -> None:
        """Send the last words and close the way out; the client can read them while it still sends."""
        if self.writer.closing:
            return
        if last_words:
            self.writer.write(last_words)
        self.writer.half_close()
        self._linger_until = time.monotonic() + (MAX_LATE_LINGER_S if self._is_late else MAX_LINGER_S)
        self.deadline = min(time.monotonic() + LINGER_S, self._linger_until)
        self._resume_reading()

    def _leave(self) -> None:
        """Close a connection on which nothing is asked."""
        if not self.writer.closing:
            self._wait(0)
            self.writer.close()

    def _wait(self, seconds: float) -> None:
        """Give the client so much time from now on."""
        self.deadline = time.monotonic() + seconds

    def _hold(self, request: Request, count: int) -> None:
        """Count bytes of a body or a response that are in memory."""
        request.held += count
        self._held += count
        self._limits.bytes += count

    def _pause_reading(self) -> None:
        if self._is_reading and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        """Read on, unless requests wait for their turn."""
        may_read = not self._waiting or self.writer.closing
        if may_read and not self._is_reading and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()
