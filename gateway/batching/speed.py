"""PURE: what is learned of a model from its batches: how fast it is, and how large a batch fits into memory."""

from __future__ import annotations

import math

from embeddings_gateway.workers.engine import HANG_FACTOR

DECAY = 0.9

RECOVERY = 1.02
"""The factor by which the limit grows with each batch that used most of it: it doubles after 35 of them."""

USED_PART = 0.75


class Speed:
    """Tokens a second of one engine, as a moving average over batches.

    Attributes:
        tokens_per_s: 0 while nothing is known.
        known_at: when the last batch was observed, in monotonic seconds.
    """

    def __init__(self) -> None:
        self.tokens_per_s = 0.0
        self.known_at = -math.inf

    def observe(self, tokens: int, seconds: float, now: float) -> None:
        """Add a batch that ended at the time ``now``."""
        self.known_at = now
        speed = tokens / max(seconds, 1e-6)
        self.tokens_per_s = DECAY * (self.tokens_per_s or speed) + (1 - DECAY) * speed

    def timeout_s(self, tokens: int, guess: float) -> float:
        """Return after how many seconds a batch counts as hung; 0 if no speed is known.

        Args:
            tokens: the cost of the batch.
            guess: tokens a second, for a model that has computed nothing yet; 0 if unknown.
        """
        speed = self.tokens_per_s or guess
        return HANG_FACTOR * tokens / speed if speed else 0.0


class MemoryLimit:
    """A limit on the cost of a batch, in tokens. There is none until memory runs out."""

    def __init__(self) -> None:
        self._tokens = math.inf

    def cap(self, max_batch_tokens: int) -> int:
        """Return the largest cost of a batch, for a backend with the limit ``max_batch_tokens``."""
        if self._tokens >= max_batch_tokens:
            self._tokens = math.inf
            return max_batch_tokens
        return int(self._tokens)

    def exceeded(self, cost: int) -> None:
        """Note that memory ran out on a batch of this cost."""
        self._tokens = max(1, min(self._tokens, cost // 2))

    def sufficed(self, cost: int) -> None:
        """Note that there was memory for a batch of this cost."""
        if cost >= USED_PART * self._tokens:
            self._tokens = self._tokens * RECOVERY + 1
