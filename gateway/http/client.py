"""Who is at the other end of a connection, and the work that is done for nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from embeddings_gateway.errors import ClientGone, GatewayError

T = TypeVar("T")

CLIENT = "embeddings_gateway.http.client"
"""The key of a request's scope under which its :class:`Client` is; by ASGI a task would have to wait."""

ARRIVED = "embeddings_gateway.http.arrived"
"""The key under which it is when the request's head had arrived, in monotonic seconds."""


class Client:
    """The other end of one connection.

    Attributes:
        gone: whether there is nobody any more.
        refusal: why no more of the request that is being answered is received.
    """

    def __init__(self) -> None:
        self.gone = False
        self.refusal: GatewayError | None = None
        self._tell: set[Callable[[], object]] = set()

    @property
    def watched(self) -> bool:
        """Whether anybody is to be told when it goes."""
        return bool(self._tell)

    def leave(self) -> None:
        """Tell all who watch. Called once, when the connection has ended."""
        self.gone = True
        for tell in tuple(self._tell):
            tell()

    async def awaits(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, or cancel it as soon as the client goes.

        Raises:
            ClientGone: it did.
        """
        working = asyncio.current_task()
        assert working is not None  # noqa: S101 - for the type checker: a coroutine runs in a task
        cancelled = False

        def stop() -> None:
            nonlocal cancelled
            cancelled = working.cancel()

        if self.gone:
            work.close()
            raise ClientGone
        self._tell.add(stop)
        try:
            return await work
        except asyncio.CancelledError:
            if cancelled and not working.uncancel():  # somebody else may have asked for it as well
                raise ClientGone from None
            raise
        finally:
            self._tell.discard(stop)
