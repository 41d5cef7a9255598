"""How long work is done in short turns, so that one large request never holds the event loop for long."""

from __future__ import annotations

import asyncio

WORK_MAX = 16_384
"""Numbers, of vectors or token ids, between two turns of the loop: to write as many takes a millisecond."""

ONE = 100
"""What it costs to look at one input at all, as a count of numbers."""


class Pace:
    """The work that one request has done since the event loop last turned."""

    def __init__(self) -> None:
        self._done = 0

    async def after(self, work: int) -> bool:
        """Count work that was done, in numbers; let the loop turn if it is due, and return whether it did."""
        self._done += work
        if self._done < WORK_MAX:
            return False
        self._done = 0
        await asyncio.sleep(0)
        return True
