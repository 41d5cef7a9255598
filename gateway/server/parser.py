"""Parses the requests of a connection, with httptools.

It limits everything but bodies, refuses requests whose end is ambiguous, and ignores offers of an upgrade, as RFC 9110
(7.8) permits. ``connection`` decides when a request is answered.
"""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable

import httptools

from embeddings_gateway.errors import GatewayError, HeadTooLarge, InternalError, NotHttp
from embeddings_gateway.log import get_logger
from embeddings_gateway.server.request import Head, Headers

MAX_HEAD_BYTES = 32 << 10  # of the request line and headers; also of the bytes between two chunks of a body
MAX_HEADERS = 128  # a tiny header takes twenty times its bytes in memory
VERSIONS = ("1.1", "1.0")

log = get_logger()


class RequestParser:
    """Parses the requests of one connection.

    httptools buffers an incomplete header without a limit. So the bytes since its last callback are counted. Memory
    is limited to ``MAX_HEAD_BYTES`` and one read of the transport.

    Args:
        head_begins, request_begins, body_received, request_ends: callbacks. A GatewayError that they raise stops
            the parser.
    """

    def __init__(
        self,
        head_begins: Callable[[], object],
        request_begins: Callable[[Head], object],
        body_received: Callable[[bytes], object],
        request_ends: Callable[[], object],
    ) -> None:
        self._head_begins = head_begins
        self._request_begins = request_begins
        self._body_received = body_received
        self._request_ends = request_ends
        self._parser = self._new_parser()
        self._unreported_bytes = 0
        self._offers_upgrade = False
        self._url = b""
        self._headers: Headers = []

    def feed(self, data: bytes) -> None:
        """Parse data.

        Raises:
            GatewayError: the connection has to end.
        """
        self._unreported_bytes += len(data)
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError as error:
            raise _refusal(error) from None
        if self._unreported_bytes > MAX_HEAD_BYTES:
            raise _head_too_large()

    # Called by httptools.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url, self._headers = b"", []
        self._head_begins()

    def on_url(self, url: bytes) -> None:
        """Add a part of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header."""
        self._headers.append((name.lower(), value))
        if len(self._headers) > MAX_HEADERS:
            raise _head_too_large()

    def on_headers_complete(self) -> None:
        """Report the head, unless it offers an upgrade: then it is parsed again without the offer."""
        self._unreported_bytes = 0
        headers = self._headers
        if len(self._url) + sum([len(name) + len(value) + 4 for name, value in headers]) > MAX_HEAD_BYTES:
            raise _head_too_large()
        self._offers_upgrade = self._parser.should_upgrade()
        if not self._offers_upgrade:
            self._headers = []  # trailers are counted, but ignored
            self._request_begins(self._head(headers))

    def on_body(self, data: bytes) -> None:
        """Report a part of the body."""
        self._unreported_bytes = 0
        self._body_received(data)

    def on_message_complete(self) -> None:
        """Report the end of a request, unless it is parsed again."""
        self._unreported_bytes = 0
        if not self._offers_upgrade:
            self._request_ends()

    def _head(self, headers: Headers) -> Head:
        """Return the checked head.

        Raises:
            NotHttp: it is not a head of HTTP/1.1, or the end of its body is ambiguous.
        """
        version = self._parser.get_http_version()
        if version not in VERSIONS:
            raise NotHttp("This is not HTTP/1.1.")
        fields = dict(headers)
        repeated = len(fields) < len(headers)
        if version == "1.1" and (b"host" not in fields or (repeated and _count(headers, b"host") > 1)):
            raise NotHttp("A request has one Host.")
        keep_alive = version == "1.1" and self._parser.should_keep_alive()
        if (coding := fields.get(b"transfer-encoding")) is not None:
            # llhttp knows no other blanks after it; it would read such a body to the end of the connection.
            if _count(headers, b"transfer-encoding") > 1 or coding.strip(b" ").lower() != b"chunked":
                raise NotHttp("The one transfer coding of a request is chunked.")  # RFC 9112, 6.3
            # With two lengths, the chunks count. A proxy may have used the other length, so nothing follows.
            keep_alive = keep_alive and b"content-length" not in fields
        raw_path, query = split_target(self._url)
        path = raw_path.decode("ascii")
        return Head(
            self._parser.get_method().decode("ascii"),
            urllib.parse.unquote(path) if "%" in path else path,
            raw_path,
            query,
            version,
            headers,
            fields,
            keep_alive,
            time.monotonic(),
        )

    def _feed(self, data: bytes) -> bytes:
        """Parse data. At an offer of an upgrade stop, and return the head without the offer and the rest."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._offers_upgrade = False
            rest = data[upgrade.args[0] :]
            if self._parser.get_method() == b"CONNECT":  # a demand, not an offer
                raise NotHttp("This is no proxy.") from None
            head = self._head_without_offer()
            self._parser = self._new_parser()
            return head + rest
        return b""

    def _new_parser(self) -> httptools.HttpRequestParser:
        """Return a parser that lets chunks overrule a content-length, and ignores data after a last request."""
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_data_after_close=True)
        return parser

    def _head_without_offer(self) -> bytes:
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version)]
        for name, value in self._headers:
            if name == b"connection":
                tokens = [token for token in value.split(b",") if token.strip().lower() != b"upgrade"]
                lines.append(b"connection: " + b",".join(tokens))
            elif name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request target.

    Raises:
        NotHttp: it names no path.
    """
    if target.startswith(b"/") and b"#" not in target:
        path, _, query = target.partition(b"?")
        return path, query
    url = httptools.parse_url(target)
    if url.path is None:
        raise NotHttp("A request names a path.")
    return url.path, url.query or b""


def _count(headers: Headers, name: bytes) -> int:
    return sum([header == name for header, _ in headers])


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"A request has at most {MAX_HEADERS} headers, of {MAX_HEAD_BYTES} bytes in all.")


def _refusal(error: httptools.HttpParserError) -> GatewayError:
    """Return the error for a stopped parser: InternalError only if one of our callbacks failed."""
    cause = error.__context__
    if isinstance(cause, GatewayError):
        return cause
    is_ours = isinstance(error, httptools.HttpParserCallbackError)
    if is_ours and not isinstance(cause, httptools.HttpParserError | UnicodeError):
        log.error("request failed in the parser", exc_info=cause)
        return InternalError()
    return NotHttp("This is not HTTP/1.1.")
