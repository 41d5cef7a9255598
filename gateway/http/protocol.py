"""HTTP/1.1 on one connection: its requests, answered one after the other, and what is refused of them."""

from __future__ import annotations

import asyncio
import math
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from embeddings_gateway.errors import BodyTimeout, GatewayError, HeadTimeout, NotHttp, Overloaded
from embeddings_gateway.http import status
from embeddings_gateway.http.client import ARRIVED, CLIENT, Client
from embeddings_gateway.http.cycle import Cycle
from embeddings_gateway.http.load import RETRY_S, Load
from embeddings_gateway.http.waiting import Waiting

PIPELINE_MAX = 100
"""Requests that may wait on one connection for their turn; they are held in memory."""


class Flow(FlowControl):
    """Whether a connection is read: not while requests wait on it for their turn.

    Args:
        waits: whether they do.
    """

    def __init__(self, transport: asyncio.Transport, waits: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._waits = waits

    def resume_reading(self) -> None:
        """Read on, unless requests wait: an application that receives a body asks for it whether or not."""
        if not self._waits():
            super().resume_reading()


class Protocol(Waiting):
    """One connection.

    Args:
        load: what all of them share.
    """

    def __init__(self, *args: Any, load: Load, **options: Any) -> None:
        super().__init__(*args, server=load.server, **options)
        self._load = load
        self._client = Client()
        self._answering: Cycle | None = None
        self._in_head = False
        self._held = 0
        self._refusal: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a connection, unless there are too many."""
        super().connection_made(transport)
        self.flow = Flow(self.transport, waits=lambda: bool(self.pipeline) and not self.ending)
        if refusal := self._load.too_many(len(self.connections)):
            self.refuse(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection."""
        super().connection_lost(exc)
        self._release(self._held)
        if self._answering is not None:  # uvicorn looks at the newest request alone
            self._answering.disconnected = True
            self._answering.message_event.set()
        self._client.leave()

    def data_received(self, data: bytes) -> None:
        """Parse what came; behind what is refused nothing of it counts any more."""
        if self._refusal is None or self.ending:
            super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin with the head of a request; while another one is answered, it has time."""
        super().on_message_begin()
        self._in_head = True
        if self._answering is None:
            self.wait(self.server_config.head_timeout_s)

    def request_begins(self, *, keep_alive: bool) -> None:
        """Begin to answer, or let it wait for its turn."""
        self._in_head = False
        if len(self.pipeline) >= PIPELINE_MAX:
            raise Overloaded("A connection has too many requests waiting on it.", retry_after=RETRY_S)
        self._complete_scope()
        cycle = self.cycle = Cycle(
            is_last=self._is_last,
            begins=self.answer_begins,
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive and self.parser.get_http_version() != "1.0",
            on_response=self.on_response_complete,
        )
        if self._answering is None:
            self._answer(cycle)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def body_came(self, body: bytes) -> None:
        """Take a part of a body, as long as there is room for it."""
        cycle = cast(Cycle, self.cycle)
        if cycle.response_complete or self._client.refusal is not None:
            return
        cycle.take(body)
        self._hold(len(body))
        if refusal := self._load.too_much():
            if cycle is not self._answering:
                raise refusal
            self._stop_receiving(refusal)

    def answer_begins(self, length: int) -> None:
        """Count the answer as well: it is held until the client has taken it."""
        super().answer_begins(length)
        if self._answering is not None:
            self._answering.held += length
            self._hold(length)

    def request_ends(self) -> None:
        """Take the end of a request."""
        cycle = self.cycle
        cycle.more_body = False  # also of a request that was answered before
        cycle.message_event.set()
        if cycle is self._answering:
            self.deadline = math.inf
        self.flow.resume_reading()  # a large body has paused it, and a client that goes is to be seen

    def on_response_complete(self) -> None:
        """Go on with the next request, or with the refusal of what followed this one."""
        self.server_state.total_requests += 1
        answered, self._answering = self._answering, None
        if answered is not None:
            self._release(answered.held)
        if self.ending:
            return
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            self._answer(cast(Cycle, cycle))
        elif self._refusal is not None:
            self.end(self._refusal)
        else:
            bounds = self.server_config
            self.wait(bounds.head_timeout_s if self._in_head else bounds.idle_timeout_s)
        self.flow.resume_reading()

    def late(self) -> None:
        """Refuse a request of which a part is missing; leave a client that asks nothing."""
        if self._answering is not None:
            self._stop_receiving(BodyTimeout("The body was not received in time."))
        elif self._in_head:
            self.refuse(HeadTimeout("The head of the request was not received in time."))
        else:
            self.leave()

    def refuse(self, error: GatewayError) -> None:
        """Answer with an error and close, after the answers to the requests that came before."""
        self.logger.warning("connection refused: %s", error.message)
        self._refusal = last_words(error)
        if self._answering is None:
            self.end(self._refusal)
        elif self.pipeline and self.cycle.more_body:  # what is broken waits behind others, and never begins
            self.pipeline.popleft()
        elif self.cycle.more_body:  # it has begun: it has its answer, or this is it
            self.end(b"" if self.cycle.response_started else self._refusal)
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:  # the request before is whole, and has an answer coming
            self.flow.pause_reading()

    def drain(self, error: GatewayError) -> None:
        """Refuse a request whose body is still being received: the gateway is stopping."""
        if self._answering is not None and self._answering.more_body:
            self._stop_receiving(error)

    def shutdown(self) -> None:
        """Let what is being answered be the last, and close if there is nothing."""
        if self._answering is not None:
            self.cycle.keep_alive = False
        else:
            self.leave()

    def _complete_scope(self) -> None:
        """Tell the application what is asked for."""
        url = httptools.parse_url(self.url)
        if url.path is None:
            raise NotHttp("A request names a path.")
        path = url.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = self.parser.get_http_version()
        self.scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""
        self.scope[CLIENT] = self._client  # type: ignore[literal-required]
        self.scope[ARRIVED] = time.monotonic()  # type: ignore[literal-required]

    def _answer(self, cycle: Cycle) -> None:
        """Begin to answer a request, of which the body may still be to come."""
        self._answering = cycle
        if cycle.more_body:
            self.wait(self.server_config.body_timeout_s)
        else:
            self.deadline = math.inf
        self._start_asgi_task(cycle, self.app)

    def _is_last(self) -> bool:
        """Tell whether the answer that begins now is the last one of the connection."""
        refused = self._client.refusal is not None  # of what has come since then, nothing was kept
        return refused or (self._load.registry.draining and not self.pipeline)

    def _stop_receiving(self, error: GatewayError) -> None:
        """Have whoever reads the body of the request that is being answered fail with an error."""
        self.deadline = math.inf
        self._client.refusal = error
        self.cycle.message_event.set()  # while its body is not whole, there is no newer one

    def _hold(self, count: int) -> None:
        """Take room for so many bytes, of a body or an answer."""
        self._held += count
        self._load.bytes += count

    def _release(self, count: int) -> None:
        """Give back the room of so many bytes."""
        self._held -= count
        self._load.bytes -= count


def last_words(error: GatewayError) -> bytes:
    """Return the answer to what never became a request."""
    told = status.answer(error)
    own = "".join(f"{name}: {value}\r\n" for name, value in told.headers.items()).encode()
    head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n%b\r\n"
    return STATUS_LINE[told.status] + head % (len(told.body), own) + told.body
