"""How long to wait before a worker is started again."""

from __future__ import annotations

import random

SECONDS_MIN = 0.25
SECONDS_MAX = 30.0


class Backoff:
    """Twice as long after every start that came to nothing; with jitter, so that replicas start apart."""

    def __init__(self) -> None:
        self._seconds = SECONDS_MIN

    def fruitful(self) -> None:
        """Note that the worker has done some work since it was started."""
        self._seconds = SECONDS_MIN

    def pause(self) -> float:
        """Return how many seconds to wait this time."""
        seconds, self._seconds = self._seconds, min(SECONDS_MAX, 2 * self._seconds)
        return seconds * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
