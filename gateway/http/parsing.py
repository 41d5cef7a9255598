"""From the bytes of one connection to its requests: uvicorn's httptools protocol, with what it lacks there.

A bound on what is not a body, and offers of an upgrade that are ignored, as RFC 9110 (7.8) lets a server do:
uvicorn would lose the body of the request that makes one. What becomes of a request is left to ``protocol``.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from embeddings_gateway.errors import GatewayError, HeadTooLarge, InternalError, NotHttp
from embeddings_gateway.log import get_logger

HEAD_BYTES_MAX = 32 << 10
"""Bytes of a request line with its headers, and of what stands round the pieces of a chunked body."""


VERSIONS = ("1.1", "1.0")

log = get_logger()


class Parsing(HttpToolsProtocol):
    """The way into a connection.

    The parser keeps a header that is not complete to itself, so what is counted are the bytes that came since
    it last had anything to tell; they are no more than the bound and one read of the transport.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = self._make_parser()
        self._silent_bytes = 0
        self._offer = False

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._silent_bytes += len(data)
        try:
            while data:
                data = self._feed(data)
            if self._silent_bytes > HEAD_BYTES_MAX:
                raise HeadTooLarge(f"The headers have at most {HEAD_BYTES_MAX} bytes.")
        except httptools.HttpParserError as error:
            self.refuse(_refusal(error))
        except GatewayError as error:
            self.refuse(error)

    def on_headers_complete(self) -> None:
        """Begin a request, if this is not an offer, which is parsed again without it."""
        self._silent_bytes = 0
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_BYTES_MAX:
            raise HeadTooLarge(f"The headers have at most {HEAD_BYTES_MAX} bytes.")
        self._offer = self.parser.should_upgrade()
        if self._offer:
            return
        version = self.parser.get_http_version()
        if version not in VERSIONS:
            raise NotHttp("This is not HTTP/1.1.")
        names = [name for name, _ in self.headers]
        if names.count(b"host") != 1 and version == "1.1":
            raise NotHttp("A request has one Host.")
        if b"transfer-encoding" in names:
            self._refuse_codings()
        # of two lengths, somebody in front of us may have believed the other one
        two_lengths = b"transfer-encoding" in names and b"content-length" in names
        self.request_begins(keep_alive=self.parser.should_keep_alive() and not two_lengths)
        self.headers = []  # of a trailer, which nobody reads, and which must not be taken for a header

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._silent_bytes = 0
        self.body_came(body)

    def on_message_complete(self) -> None:
        """Take the end of a request; an offer ends with its head, and comes again."""
        self._silent_bytes = 0
        if not self._offer:
            self.request_ends()

    def request_begins(self, *, keep_alive: bool) -> None:
        """Take the head of a request, in ``scope`` and ``url``; the connection may stay or not.

        Raises:
            GatewayError: the request is refused, and nothing behind it is read.
        """
        raise NotImplementedError

    def body_came(self, body: bytes) -> None:
        """Take a part of its body; raises as for its head."""
        raise NotImplementedError

    def request_ends(self) -> None:
        """Take its end."""
        raise NotImplementedError

    def refuse(self, error: GatewayError) -> None:
        """Answer what cannot be read any further."""
        raise NotImplementedError

    def _refuse_codings(self) -> None:
        """Refuse a body that is not simply chunked: where it ends could be doubtful (RFC 9112, 6.3)."""
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            raise NotHttp("The one transfer coding of a request is chunked.")

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


def _refusal(error: httptools.HttpParserError) -> GatewayError:
    """Return what a client is told when the parser stops: at what it has sent, or at what we made of it."""
    cause = error.__context__
    if isinstance(cause, GatewayError):
        return cause
    if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
        cause, httptools.HttpParserError | UnicodeError
    ):
        log.error("request failed in the parser", exc_info=cause)
        return InternalError()
    return NotHttp("This is not HTTP/1.1.")
