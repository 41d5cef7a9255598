"""One keep-alive HTTP/1.1 connection of the load generator: as little work for an answer as can be.

It knows what servers send to a POST: a status, and a body with its length or in chunks.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
LAST_CHUNK = b"\r\n0\r\n\r\n"
HEAD_END = b"\r\n\r\n"

Answered = Callable[["Connection", int, bytes], None]
Lost = Callable[["Connection"], None]


class Connection(asyncio.Protocol):
    """Sends one request at a time, and tells of its answer or of the connection's end.

    Attributes:
        answered: is given the status and the body.
        lost: is called when the connection ends, whether or not an answer was awaited.
    """

    def __init__(self, answered: Answered, lost: Lost) -> None:
        self.answered = answered
        self.lost = lost
        self._chunks: list[bytes] = []
        self._missing: int | None = None  # bytes of the answer; None before its head has come
        self._chunked = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._transport = None
        self.lost(self)

    def send(self, request: bytes) -> None:
        """Write a request. That the connection has gone is told by ``lost``."""
        self._chunks, self._missing, self._chunked = [], None, False
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Collect an answer, and hand it over once it is whole."""
        self._chunks.append(data)
        if self._missing is None and not self._chunked:
            self._read_head(b"".join(self._chunks))
        elif self._missing is not None:
            self._missing -= len(data)
        if self._missing == 0 or (self._chunked and self._ends_chunked()):
            whole = b"".join(self._chunks)
            head, _, body = whole.partition(HEAD_END)
            self.answered(self, int(head[9:12]), dechunk(body) if self._chunked else body)

    def _read_head(self, so_far: bytes) -> None:
        end = so_far.find(HEAD_END)
        if end < 0:
            return
        head = so_far[: end + 2]
        if length := LENGTH.search(head):
            self._missing = int(length[1]) - (len(so_far) - end - len(HEAD_END))
        elif CHUNKED.search(head):
            self._chunked = True
        else:
            self._missing = 0

    def _ends_chunked(self) -> bool:
        return b"".join(self._chunks[-2:])[-len(LAST_CHUNK) :] == LAST_CHUNK


def dechunk(body: bytes) -> bytes:
    """Return the content of a body in chunks."""
    parts: list[bytes] = []
    at = 0
    while True:
        line = body.index(b"\r\n", at)
        size = int(body[at:line].partition(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
