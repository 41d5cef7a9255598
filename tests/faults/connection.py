"""One keep-alive connection of a client, and what comes over it: as little work for an answer as can be."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.server import Server

LIMIT_BYTES = 1 << 20
TCP_CLOSE = 7  # of netinet/tcp.h: the other side has answered with a reset
RESET_S = 3


class Reply(NamedTuple):
    """One answer.

    Attributes:
        headers: by their names in lower case.
        sent, received: monotonic seconds, of the whole request and the whole answer.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent: float
    received: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.received - self.sent

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Lost(Exception):
    """The connection ended instead of an answer.

    Attributes:
        unread: whether the system says for the server that nobody ever read the request: it answered it with
            a reset. A server that reads a request and then closes ends the connection in order.
    """

    def __init__(self, *, unread: bool) -> None:
        super().__init__("unread" if unread else "read, and not answered")
        self.unread = unread


class Connection:
    """One connection; made by :meth:`open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, server: Server) -> Connection:
        """Connect.

        Raises:
            ConnectionError: nobody listens.
        """
        where = urllib.parse.urlsplit(server.url)
        return cls(*await asyncio.open_connection(where.hostname, where.port, limit=LIMIT_BYTES))

    async def ask(self, request: bytes) -> Reply:
        """Send a request and return its answer.

        Raises:
            Lost: there is none.
        """
        sent = time.monotonic()
        try:
            self._writer.write(request)
            status, headers = parse(await self._reader.readuntil(b"\r\n\r\n"))
            body = await self._reader.readexactly(int(headers["content-length"]))
        except asyncio.IncompleteReadError as error:
            raise Lost(unread=not error.partial and await self._reset()) from None
        except ConnectionError:
            raise Lost(unread=True) from None
        return Reply(status, headers, body, sent, time.monotonic())

    def close(self) -> None:
        """End the connection, in the midst of whatever comes over it."""
        self._writer.close()

    async def _reset(self) -> bool:
        """Tell whether what was sent is answered with a reset."""
        own = self._writer.get_extra_info("socket")
        end = time.monotonic() + RESET_S
        while own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != TCP_CLOSE:
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.01)
        return True


def parse(head: bytes) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of an answer."""
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def post(body: Mapping[str, Any], request_id: str) -> bytes:
    """Return a request for embeddings."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nx-request-id: {request_id}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def get(path: str, request_id: str) -> bytes:
    """Return a request for a path."""
    return f"GET {path} HTTP/1.1\r\nhost: x\r\nx-request-id: {request_id}\r\n\r\n".encode()
