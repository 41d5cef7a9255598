"""How often the event loop turns."""

from __future__ import annotations

import asyncio


class Turns:
    """Counts how often the event loop turns. An asynchronous context manager."""

    async def __aenter__(self):
        self.count = 0
        self._counting = asyncio.ensure_future(self._run())
        await asyncio.sleep(0)
        self.count = 0
        return self

    async def __aexit__(self, *_):
        self._counting.cancel()

    async def _run(self):
        while True:
            self.count += 1
            await asyncio.sleep(0)
