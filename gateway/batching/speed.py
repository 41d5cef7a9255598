"""PURE: how fast a model is, from the batches that it has computed."""

from __future__ import annotations

import math

from embeddings_gateway.workers.vigil import HANG_FACTOR

MEMORY = 0.9


class Speed:
    """Tokens a second of one worker, as a moving average over batches.

    Attributes:
        tokens_per_s: 0 while nothing is known.
        known_at: when the last batch was noted, in monotonic seconds.
    """

    def __init__(self) -> None:
        self.tokens_per_s = 0.0
        self.known_at = -math.inf

    def observe(self, tokens: int, seconds: float, now: float) -> None:
        """Note a batch at the time ``now``."""
        self.known_at = now
        speed = tokens / max(seconds, 1e-6)
        self.tokens_per_s = MEMORY * (self.tokens_per_s or speed) + (1 - MEMORY) * speed

    def seconds_max(self, tokens: int, guess: float) -> float:
        """Return after how many seconds a batch has to be taken for hung.

        Args:
            tokens: its cost.
            guess: tokens a second, for a model that has computed nothing yet; 0 if nobody knows.
        """
        speed = self.tokens_per_s or guess
        return HANG_FACTOR * tokens / speed if speed else 0.0
