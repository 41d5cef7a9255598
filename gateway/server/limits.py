"""Gateway-wide limits shared by all connections: how many there are, and the bytes that they hold."""

from __future__ import annotations

from email.utils import formatdate
from typing import Generic, TypeVar

from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import Overloaded

C = TypeVar("C")

RETRY_S = 1


class Limits(Generic[C]):
    """What the connections of one server share. Belongs to one event loop.

    Attributes:
        config: the bounds.
        connections: those that are open.
        bytes: of request bodies, from their arrival until their request has been answered, and of responses
            while they are sent. No response is refused for it, but no body is taken while there are too many.
        draining: whether the server is stopping, so that the response to the last request ends a connection.
        date: the header line that every response carries.
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
        """Return the error for a new connection, if it is one too many."""
        if len(self.connections) <= self.config.max_connections:
            return None
        return Overloaded("The gateway has too many connections.", retry_after=RETRY_S)

    def too_many_bytes(self) -> Overloaded | None:
        """Return the error for a request whose body has no room now."""
        if self.bytes <= self.config.max_buffered_bytes:
            return None
        message = "The gateway has too many bytes of requests and answers in memory."
        return Overloaded(message, retry_after=RETRY_S)
