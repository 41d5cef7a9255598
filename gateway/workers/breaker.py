"""PURE: when a worker that keeps dying is no longer waited for."""

from __future__ import annotations

from collections import deque

DEATHS_MAX = 5
WINDOW_S = 60.0


class Breaker:
    """Opens after five deaths in a minute; whoever asks for the worker is then refused instead of waiting.

    A worker that has started again and passed its self-test is the probe that closes it, half: what died in
    the last minute is not forgotten, and one more death opens it again.

    Attributes:
        open: whether it is.
    """

    def __init__(self) -> None:
        self.open = False
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)

    def death(self, now: float) -> None:
        """Note a death at the time ``now``, in seconds."""
        self._deaths.append(now)
        self.open = self.open or (len(self._deaths) == DEATHS_MAX and now - self._deaths[0] < WINDOW_S)

    def probed(self) -> None:
        """Note that the worker works again."""
        self.open = False
