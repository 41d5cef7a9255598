"""Limits that all connections share: their number, and the bytes that they hold in memory."""

from __future__ import annotations

from email.utils import formatdate
from typing import Generic, TypeVar

from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import Overloaded, RetryAfter

C = TypeVar("C")


class Limits(Generic[C]):
    """The state that the connections of a server share. It belongs to one event loop.

    Attributes:
        connections: the open connections.
        bytes: in memory: request bodies, from their arrival until the request is answered, and responses while
            they are sent. Over the limit, bodies are refused; responses never are.
        draining: whether the server is stopping. A connection then closes after its last response.
        date: the ``date`` header line of every response.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.connections: set[C] = set()
        self.bytes = 0
        self.draining = False
        self.set_date()

    def set_date(self) -> None:
        """Set the date to now."""
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()

    def too_many_connections(self) -> Overloaded | None:
        """Return the error for a new connection if there are too many."""
        if len(self.connections) <= self.config.max_connections:
            return None
        return Overloaded("The gateway has too many connections.", retry_after=RetryAfter.CONNECTIONS)

    def too_many_bytes(self) -> Overloaded | None:
        """Return the error for a request if there is no room for its body."""
        if self.bytes <= self.config.max_buffered_bytes:
            return None
        message = "The gateway has too many bytes of requests and answers in memory."
        return Overloaded(message, retry_after=RetryAfter.CONNECTIONS)
