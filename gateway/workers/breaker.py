"""PURE: when a worker that keeps dying is no longer waited for."""

from __future__ import annotations

from collections import deque

DEATHS_MAX = 5
WINDOW_S = 60.0


class Breaker:
    """Opens after five deaths in a minute, or five in a row without any work done, however far apart.

    Whoever asks for the worker is then refused instead of waiting. A worker that has started again and passed
    its self-test is the probe that closes it, half: what died in the last minute is not forgotten, and one
    more death opens it again.

    Attributes:
        open: whether it is.
    """

    def __init__(self) -> None:
        self.open = False
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self._in_a_row = 0
        self._failed_starts = 0
        self._unjudged: list[float] = []
        self._explained = 0

    @property
    def hopeless(self) -> bool:
        """Whether the last five starts all came to nothing."""
        return self._failed_starts >= DEATHS_MAX

    def failed_start(self, now: float) -> None:
        """Note at the time ``now``, in seconds, that a worker ended before it could be used."""
        self._failed_starts += 1
        self._count(now, fruitful=False)

    def death(self, now: float, *, fruitful: bool) -> None:
        """Note a death at the time ``now``, in seconds, and whether any work had been done before it."""
        self._count(now, fruitful)

    def _count(self, now: float, fruitful: bool) -> None:
        self._deaths.append(now)
        self._in_a_row = 0 if fruitful else self._in_a_row + 1
        many = len(self._deaths) == DEATHS_MAX and now - self._deaths[0] < WINDOW_S
        self.open = self.open or many or self._in_a_row >= DEATHS_MAX

    def suspect(self, now: float) -> None:
        """Note a death during a search for the input whose doing it is: only when it is over it counts."""
        self._unjudged.append(now)

    def explain(self, deaths: int) -> None:
        """Note that the last so many deaths were an input's doing, which cannot do it again."""
        self._explained = deaths

    def judge(self) -> None:
        """Count the deaths of a search that is over, but for those that it has explained."""
        deaths, self._unjudged = self._unjudged, []
        explained, self._explained = self._explained, 0
        for at in deaths[: max(0, len(deaths) - explained)]:
            self.death(at, fruitful=True)  # each start went well
        for _ in range(explained - len(deaths)):
            self._forgive()

    def _forgive(self) -> None:
        if self._deaths:
            self._deaths.pop()
        self._in_a_row = 0

    def probed(self) -> None:
        """Note that the worker works again."""
        self.open = False
        self._failed_starts = 0
