"""Interrupts long work of one request, so that the event loop can run other tasks."""

from __future__ import annotations

import asyncio

MAX_WORK = 16_384
"""How many numbers, of vectors or token ids, are handled before other tasks run: about a millisecond's work."""

ONE_INPUT = 100
"""The cost of looking at one input at all, as a count of numbers."""


class LoopYielder:
    """Counts the work that one request has done since other tasks last ran."""

    def __init__(self) -> None:
        self._done = 0

    async def yield_to_loop(self, work: int) -> None:
        """Count work that was done, in numbers; let other tasks run once it is enough."""
        self._done += work
        if self._done >= MAX_WORK:
            self._done = 0
            await asyncio.sleep(0)
