"""One connection to a gateway, and the bytes of requests: for what no client library would send."""

from __future__ import annotations

import contextlib
import select
import socket
import urllib.parse

WAIT_S = 60
START = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
SMALL = b'{"model": "fake", "input": "text"}'
PACE_S = 0.02


def sized(body: bytes) -> bytes:
    """Return the rest of a request, with the body's length before it."""
    return b"content-length: %d\r\n\r\n%b" % (len(body), body)


class Connection:
    """One connection to a gateway.

    Args:
        url: of the gateway.
        wait_s: how long the gateway may leave a client waiting.
        buffer_bytes: how much the client's system takes before anybody reads it; ``None`` leaves that to it.
    """

    def __init__(self, url: str, wait_s: float = WAIT_S, buffer_bytes: int | None = None) -> None:
        where = urllib.parse.urlsplit(url)
        self.socket = socket.socket()
        if buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.socket.settimeout(wait_s)
        self.socket.connect((where.hostname, where.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self.socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away."""
        self._answers.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send parts, each as a packet as far as that can be asked for."""
        for part in parts:
            self.socket.sendall(part)

    def drip(self, data: bytes) -> None:
        """Send a byte now and then, until all is sent or the gateway has something to say."""
        for at in range(len(data)):
            if select.select([self.socket], [], [], PACE_S)[0]:
                return
            with contextlib.suppress(OSError):
                self.socket.sendall(data[at : at + 1])

    def receive(self) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body of the next answer."""
        status = int(self._answers.readline().split()[1])
        headers = {}
        while (line := self._answers.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.strip().lower().decode()] = value.strip().decode()
        return status, headers, self._answers.read(int(headers.get("content-length", "0")))

    def everything(self) -> bytes:
        """Return all that is still to come, until the gateway closes its end."""
        return self._answers.read()

    def ended(self) -> bool:
        """Tell that nothing more comes, and that the gateway has closed its end."""
        return self.everything() == b""
