"""HTTP/1.1 on one connection: uvicorn's httptools protocol, with what it lacks towards clients.

A bound on what is not a body, errors in the shape of every other error, and offers of an upgrade that are
ignored, as RFC 9110 (7.8) lets a server do: uvicorn would lose the body of the request that makes one.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.errors import GatewayError, HeadTooLarge, NotHttp
from gateway.http import status
from gateway.http.client import CLIENT, Client
from gateway.http.transport import JoiningTransport

HEAD_BYTES_MAX = 32 << 10
"""Bytes of a request line with its headers, and of what stands round the pieces of a chunked body."""

LINGER_S = 1.0


class Protocol(HttpToolsProtocol):
    """One connection.

    The parser keeps a header that is not complete to itself, so what is counted are the bytes that came since
    it last had anything to tell; they are no more than the bound and one read of the transport.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = self._make_parser()
        self._client = Client()
        self._silent_bytes = 0
        self._offer = False
        self._refusal: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a connection."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport)))

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection."""
        super().connection_lost(exc)
        self._client.leave()

    def data_received(self, data: bytes) -> None:
        """Parse what came; after a refusal nothing of it counts any more."""
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._silent_bytes += len(data)
        try:
            while data:
                data = self._feed(data)
            if self._silent_bytes > HEAD_BYTES_MAX:
                raise HeadTooLarge(f"The headers have at most {HEAD_BYTES_MAX} bytes.")
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, GatewayError) else NotHttp("This is not HTTP/1.1."))
        except GatewayError as error:
            self._refuse(error)

    def _feed(self, data: bytes) -> bytes:
        """Parse up to the end, or up to an offer of an upgrade; return what is still to be parsed."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._offer = False
            rest = data[upgrade.args[0] :]
            if self.parser.get_method() == b"CONNECT":  # which is no offer, but a wish
                raise NotHttp("This is no proxy.") from None
            head = self._head_without_offer()
            self.parser = self._make_parser()
            return head + rest
        return b""

    def _make_parser(self) -> httptools.HttpRequestParser:
        """Return a parser.

        Of two lengths of a body the chunks count (RFC 9112, 6.3); what follows a last request is passed over.
        """
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_data_after_close=True)
        return parser

    def _head_without_offer(self) -> bytes:
        """Return the head that was just parsed, as a client without an offer would have sent it."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                kept = (token for token in value.split(b",") if token.strip().lower() != b"upgrade")
                lines.append(b"connection: " + b",".join(kept))
            elif name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        """Begin to answer, if this is not an offer, which is parsed again without it."""
        self._silent_bytes = 0
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_BYTES_MAX:
            raise HeadTooLarge(f"The headers have at most {HEAD_BYTES_MAX} bytes.")
        self._offer = self.parser.should_upgrade()
        if self._offer:
            return
        names = [name for name, _ in self.headers]
        if names.count(b"host") != 1 and self.parser.get_http_version() == "1.1":
            raise NotHttp("A request has one Host.")
        self.scope[CLIENT] = self._client  # type: ignore[literal-required]
        super().on_headers_complete()
        self.headers = []  # of a trailer, which nobody reads, and which must not be taken for a header
        if b"transfer-encoding" in names and b"content-length" in names:
            self.cycle.keep_alive = False  # somebody in front of us may have believed the other length

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request; an offer ends with its head, and comes again."""
        self._silent_bytes = 0
        if not self._offer:
            super().on_message_complete()
            self.cycle.more_body = False  # also of a request that was answered before
            if not self.pipeline:
                self.flow.resume_reading()  # a large body has paused it, and a client that goes is to be seen

    def on_response_complete(self) -> None:
        """Go on with the next request, or with the refusal of what followed this one."""
        last = not self.pipeline
        super().on_response_complete()
        if last and self._refusal is not None:
            self._end(self._refusal)

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed; uvicorn's own word for it is plain text."""
        self._refuse(NotHttp(msg))

    def _refuse(self, error: GatewayError) -> None:
        """Answer with an error and close, after the answers to the requests that came before."""
        self.logger.warning("connection refused: %s", error.message)
        told = status.answer(error)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self._refusal = STATUS_LINE[told.status] + head % len(told.body) + told.body
        if self.cycle is None:
            self._end(self._refusal)
        elif self.pipeline and self.cycle.more_body:  # what is broken waits behind others, and never begins
            self.pipeline.popleft()
        elif self.cycle.more_body:  # it has begun: it has its answer, or this is it
            self._end(b"" if self.cycle.response_started else self._refusal)
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif self.cycle.response_complete:
            self._end(self._refusal)
        else:  # the request before is whole, and has an answer coming
            self.flow.pause_reading()

    def _end(self, last: bytes) -> None:
        """Say the last words. A client that still sends would lose them, were it cut off at once."""
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self.transport.write(last)
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)
