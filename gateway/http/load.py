"""What all connections hold together, of what the gateway has only so much of."""

from __future__ import annotations

from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import GatewayError, Overloaded
from embeddings_gateway.serving.registry import Registry

RETRY_S = 1


class Load:
    """What the connections of one gateway share. Belongs to one event loop.

    Args:
        server: the bounds.
        registry: the models.

    Attributes:
        registry: knows whether the gateway is stopping, so that an answer is the last of its connection.
        bytes: of request bodies, from their arrival until their request has been answered, and of answers
            while they are sent. No answer is refused for it, but no body is taken while there is too much.
    """

    def __init__(self, server: ServerConfig, registry: Registry) -> None:
        self.server = server
        self.bytes = 0
        self.registry = registry

    def too_many(self, connections: int) -> GatewayError | None:
        """Return what a new connection is told if it is one of too many."""
        if connections <= self.server.max_connections:
            return None
        return Overloaded("The gateway has too many connections.", retry_after=RETRY_S)

    def too_much(self) -> GatewayError | None:
        """Return what a request is told whose body is more than there is room for now."""
        if self.bytes <= self.server.max_buffered_bytes:
            return None
        return Overloaded(
            "The gateway has too many bytes of requests and answers in memory.", retry_after=RETRY_S
        )
