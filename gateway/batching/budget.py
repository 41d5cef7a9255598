"""PURE: how large a batch may be, after one has run out of memory."""

from __future__ import annotations

import math

RECOVERY = 1.02
"""By so much the budget grows with each batch that used most of it: doubled after 35 of them."""

MOST = 0.75


class Budget:
    """A bound on the cost of a batch, in tokens. There is none until memory runs out."""

    def __init__(self) -> None:
        self._tokens = math.inf

    def within(self, batch_tokens: int) -> int:
        """Return the largest cost of a batch, where the backend states one of ``batch_tokens``."""
        if self._tokens >= batch_tokens:
            self._tokens = math.inf
            return batch_tokens
        return int(self._tokens)

    def exhausted(self, cost: int) -> None:
        """Note that memory ran out on a batch of this cost."""
        self._tokens = max(1, min(self._tokens, cost // 2))

    def sufficed(self, cost: int) -> None:
        """Note that it did not."""
        if cost >= MOST * self._tokens:
            self._tokens = self._tokens * RECOVERY + 1
