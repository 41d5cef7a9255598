"""Limits that all connections share: their number, and the bytes that they hold in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Generic, Literal, TypeVar

from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import Overloaded, RetryAfter

C = TypeVar("C")

SPARE_CONNECTIONS = 32
"""Connections beyond the most, for probes of the gateway's health alone."""

MAX_REFUSED = 4096
"""Further connections, which are refused with 429, if there are as many open files. Those beyond are closed at once."""

LONG_IDLE_S = 15.0
"""After this time an idle connection may be closed for another one. A new one may have its request on the way: a client
that opens thousands at once takes seconds before it sends."""

LONG_IDLE_SPARE_S = 1.0
"""The same for a spare connection: a probe sends its request at once."""

SMALL_BYTES = 64 << 10
"""A request that holds no more finds room when large ones find none."""

SPARE_PART = 8
"""Of the room for bytes in memory, 1 / n is left to small requests."""


class Limits(Generic[C]):
    """The state that the connections of a server share. It belongs to one event loop.

    Args:
        config: limits.
        max_open: the most connections that may be open, refused ones included.

    Attributes:
        connections: the open connections.
        idle: those that have no request, the longest idle ones first -> since when, in monotonic seconds.
        idle_spare: the same of spare ones.
        bytes: in memory: request bodies, from their arrival until the request is answered, and responses, from
            the moment when their size is known until they are sent.
        draining: whether the server is stopping. A connection then closes after its last response.
        date: the ``date`` header line of every response.
    """

    def __init__(self, config: ServerConfig, max_open: float = math.inf) -> None:
        self.config = config
        self._max_open = min(max_open, config.max_connections + SPARE_CONNECTIONS + MAX_REFUSED)
        self.connections: set[C] = set()
        self.idle: dict[C, float] = {}
        self.idle_spare: dict[C, float] = {}
        self.bytes = 0
        self.draining = False
        self.set_date()

    def set_date(self) -> None:
        """Set the date to now."""
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()

    @property
    def room(self) -> Literal["all", "probes", "refusal", "nothing"]:
        """For what a new connection has room: all requests, probes of health alone, a refusal, or nothing."""
        beyond = len(self.connections) - self.config.max_connections
        if beyond <= 0:
            return "all"
        if beyond <= SPARE_CONNECTIONS:
            return "probes"
        return "refusal" if len(self.connections) <= self._max_open else "nothing"

    def long_idle(self) -> C | None:
        """Return the connection that has been idle for the longest time, if that is long."""
        return _first_before(self.idle, time.monotonic() - LONG_IDLE_S)

    def long_idle_spare(self) -> C | None:
        """Return the spare connection that has been idle for the longest time, if that is long."""
        return _first_before(self.idle_spare, time.monotonic() - LONG_IDLE_SPARE_S)

    def room_for_bytes(self, held: int) -> int:
        """Return how many bytes all requests may hold, for one that holds so many of them."""
        most = self.config.max_buffered_bytes
        if held <= SMALL_BYTES:
            return most
        return most - min(most // SPARE_PART, most - self.config.max_body_bytes)

    def too_many_bytes(self, held: int) -> Overloaded | None:
        """Return the error for a request that holds so many bytes if there is no room for them."""
        if self.bytes <= self.room_for_bytes(held):
            return None
        message = "The gateway has too many bytes of requests and answers in memory."
        return Overloaded(message, retry_after=RetryAfter.CONNECTIONS)


def _first_before(since: Mapping[C, float], end: float) -> C | None:
    """Return the first key if its time is not after ``end``."""
    for key, time_of_key in since.items():
        return key if time_of_key <= end else None
    return None


def too_many_connections() -> Overloaded:
    """Return the error for a connection, or a request on a spare one, for which there is no room."""
    return Overloaded("The gateway has too many connections.", retry_after=RetryAfter.CONNECTIONS)
