"""Cross-origin requests: which pages of other origins may call the gateway from a browser, by the Fetch standard.

A page's requests never carry the browser's credentials (cookies, certificates), only what the page itself sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from embeddings_gateway.api.openapi import RESPONSE_HEADERS

MAX_AGE_S = 7200  # how long a browser keeps the answer to a preflight; Chromium keeps none for longer
ANY = "*"
_HEADER_NAMES = re.compile(rb"[\w!#$%&'*+.^`|~, -]*")
_EXPOSED = ", ".join([*RESPONSE_HEADERS, "retry-after", "x-should-retry"]).encode()
_ALLOW = b"access-control-allow-origin: %b\r\naccess-control-expose-headers: " + _EXPOSED + b"\r\n"
_VARY = b"vary: origin\r\n"


class Cors:
    """The header lines for browsers.

    Args:
        origins: of the pages that may call; ``*`` is every origin. Without any, there are no header lines.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._allows_any = ANY in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def lines(self, fields: Mapping[bytes, bytes]) -> bytes:
        """Return the lines of any response, an error too, to a request with these header fields."""
        if not self._origins:
            return b""
        if self._allows_any:
            return _ALLOW % b"*"
        origin = fields.get(b"origin", b"")
        return _VARY + _ALLOW % origin if origin in self._origins else _VARY

    def preflight(self, method: str, fields: Mapping[bytes, bytes]) -> bytes:
        """Return the further lines of the response to a preflight; empty if it is no preflight, or not allowed.

        A browser sends a preflight before a request that no form could send, to ask whether it may.
        """
        if method != "OPTIONS" or b"access-control-request-method" not in fields:
            return b""
        if not self._allows_any and fields.get(b"origin") not in self._origins:
            return b""
        lines = b"access-control-allow-methods: GET, HEAD, POST\r\naccess-control-max-age: %d\r\n" % MAX_AGE_S
        names = fields.get(b"access-control-request-headers", b"")
        if names and _HEADER_NAMES.fullmatch(names):
            lines += b"access-control-allow-headers: %b\r\n" % names
        if fields.get(b"access-control-request-private-network") == b"true":
            lines += b"access-control-allow-private-network: true\r\n"
        return lines
