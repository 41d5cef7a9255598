"""Long work in short turns of the event loop, so that one large request never holds the loop for long."""

from __future__ import annotations

import asyncio

MAX_WORK = 16_384
"""Numbers, of vectors or token ids, between two turns of the loop: to write as many takes a millisecond."""

ONE_INPUT = 100
"""What it costs to look at one input at all, as a count of numbers."""


class LoopYielder:
    """Counts the work that one request has done since the event loop last turned."""

    def __init__(self) -> None:
        self._done = 0

    async def yield_to_loop(self, work: int) -> bool:
        """Count work that was done, in numbers; let the loop turn if that is due, and return whether it did."""
        self._done += work
        if self._done < MAX_WORK:
            return False
        self._done = 0
        await asyncio.sleep(0)
        return True
