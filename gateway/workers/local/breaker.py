"""PURE: when a worker that keeps crashing is restarted, and when calls stop waiting for it."""

from __future__ import annotations

from collections import deque

CRASHES_MAX = 5
WINDOW_S = 60.0
BACKOFF_S_MIN = 0.25
BACKOFF_S_MAX = 30.0


class Backoff:
    """The pause before a restart. It doubles each time; a jitter keeps replicas from starting together."""

    def __init__(self, shortest_s: float = BACKOFF_S_MIN) -> None:
        self._shortest_s = self._seconds = shortest_s

    def reset(self) -> None:
        """Start again with the shortest pause: the worker has done some work."""
        self._seconds = self._shortest_s

    def next_s(self, jitter: float) -> float:
        """Return how many seconds to wait; ``jitter``, from 0 to 1, takes off up to half of them."""
        seconds, self._seconds = self._seconds, min(BACKOFF_S_MAX, 2 * self._seconds)
        return seconds * (1 - jitter / 2)


class Breaker:
    """Opens after five crashes in a minute, or after five in a row without any work in between.

    While it is open, calls are refused instead of waiting. A restarted worker that passed its self-test half
    opens it: calls go through, but the crashes of the last minute still count, and one more opens it again.

    Crashes during a search for a failing input count only when it ends, unless an input caused them.

    Attributes:
        is_open: whether calls are refused.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._crashes: deque[float] = deque(maxlen=CRASHES_MAX)
        self._without_work = 0  # crashes in a row
        self._failed_starts = 0  # in a row
        self._in_search: list[float] = []
        self._exonerated = 0

    @property
    def hopeless(self) -> bool:
        """Whether the last five starts all failed."""
        return self._failed_starts >= CRASHES_MAX

    def failed_start(self, now: float) -> None:
        """Count a start that failed at the time ``now``, in seconds."""
        self._failed_starts += 1
        self.crash(now, worked=False)

    def crash(self, now: float, *, worked: bool) -> None:
        """Count a crash at the time ``now``, in seconds; ``worked`` says whether the worker did any work."""
        self._crashes.append(now)
        self._without_work = 0 if worked else self._without_work + 1
        too_many = len(self._crashes) == CRASHES_MAX and now - self._crashes[0] < WINDOW_S
        self.is_open = self.is_open or too_many or self._without_work >= CRASHES_MAX

    def crash_in_search(self, now: float) -> None:
        """Note a crash during a search. :meth:`end_search` decides whether it counts."""
        self._in_search.append(now)

    def exonerate(self, crashes: int) -> None:
        """Do not count the last ``crashes``, an input caused them; effective at :meth:`end_search`.

        They may include the crash that the search began with, which was counted already.
        """
        self._exonerated = crashes

    def end_search(self) -> None:
        """Count the crashes of a search, except those that were exonerated."""
        crashes, self._in_search = self._in_search, []
        exonerated, self._exonerated = self._exonerated, 0
        for crashed_at in crashes[: max(0, len(crashes) - exonerated)]:
            self.crash(crashed_at, worked=True)  # each restart succeeded
        for _ in range(exonerated - len(crashes)):
            if self._crashes:
                self._crashes.pop()
            self._without_work = 0

    def half_open(self) -> None:
        """Let calls through again: the worker has started and passed its self-test."""
        self.is_open = False
        self._failed_starts = 0
