"""Clients that are slow on purpose, as they are met in the wild and in attacks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import urllib.parse
from typing import NamedTuple

from tests.faults.connection import parse, post
from tests.server import Server

PAUSE_S = 0.2
LARGE = post({"model": "large", "input": [f"large {i}" for i in range(512)]}, "slow")
SMALL = post({"model": "model", "input": "small"}, "slow")
ENDLESS = post({"model": "model", "input": "endless " * 1000}, "slow")[:-7000]


class Kind(NamedTuple):
    """In what a client is slow.

    Attributes:
        deadline: which one ends it.
        at_once: what it sends as fast as it can.
        slowly: what it sends one byte after the other.
        status: what it is told in the end; ``None`` where it cannot be told anything.
    """

    name: str
    deadline: str
    at_once: bytes
    slowly: bytes
    status: int | None


KINDS = (
    Kind("headers", "head", b"", SMALL.partition(b"\r\n\r\n")[0] * 100, 408),
    Kind("body", "body", ENDLESS, b"more" * 1000, 408),
    Kind("reading", "send", LARGE, b"", None),
    Kind("silent", "idle", b"", b"", None),
    Kind("kept", "idle", SMALL, b"", None),
)


class Slow:
    """One slow client.

    Attributes:
        began: when its deadline began, in monotonic seconds; 0 before.
        closed: when it was seen that the gateway had closed the connection; 0 before.
        port: its own.
    """

    def __init__(self, server: Server, kind: Kind) -> None:
        self.kind = kind
        self.began = self.closed = 0.0
        self.port = 0
        self._server = server
        self._read = b""

    async def run(self) -> None:
        """Connect, and be slow until the gateway ends it or the task is cancelled."""
        loop, where = asyncio.get_running_loop(), urllib.parse.urlsplit(self._server.url)
        with socket.socket() as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            own.setblocking(False)
            await loop.sock_connect(own, (where.hostname, where.port))
            self.port = own.getsockname()[1]
            reading = asyncio.create_task(self._receive(own))
            try:
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(own, self.kind.at_once)
                    if not self._answered_first:
                        self.began = time.monotonic()
                    for byte in self.kind.slowly:
                        await loop.sock_sendall(own, bytes([byte]))
                        await asyncio.sleep(PAUSE_S)
                await reading
            finally:
                reading.cancel()

    def check(self) -> None:
        """Check that it was told what it could be told."""
        if self.kind.status is None:
            return
        head, _, body = self._read.partition(b"\r\n\r\n")
        assert head, f"{self.kind.name}: closed without a word"
        error = json.loads(body)["error"]
        assert (parse(head)[0], error["code"]) == (self.kind.status, "request_timeout")
        assert error.keys() == {"message", "type", "param", "code"}

    @property
    def _answered_first(self) -> bool:
        """Whether its deadline begins with an answer."""
        return self.kind.at_once in (LARGE, SMALL)

    async def _receive(self, own: socket.socket) -> None:
        """Read until nothing more comes; of a large answer a little at a time."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while part := await loop.sock_recv(own, 64):
                self._read += part
                if not self.began:
                    self.began = time.monotonic()
                if self.kind.deadline == "send":
                    await asyncio.sleep(PAUSE_S)
