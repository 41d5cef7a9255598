"""The order in which searches for failing inputs use a worker: one after the other, and not too many wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from embeddings_gateway.workers.engine import SearchAborted

SEARCHES_MAX = 64
"""Searches that have their turn or wait for it. What waits for a search is counted in no queue."""


class SearchTurns:
    """The turns of one worker. Belongs to one event loop.

    Attributes:
        pending: how many searches there are.
        rerun: the turn of a single item that runs again without a search.
    """

    def __init__(self) -> None:
        self.pending = 0
        self.rerun = asyncio.Lock()
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def search(self) -> AsyncIterator[None]:
        """Wait until the searches before this one have ended.

        Raises:
            SearchAborted: too many searches wait.
        """
        if self.pending >= SEARCHES_MAX:
            raise SearchAborted
        self.pending += 1
        try:
            async with self._lock:
                yield
        finally:
            self.pending -= 1
