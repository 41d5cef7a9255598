"""PURE: how much of a worker's time the searches for failing inputs may take.

A client can cause as many searches as it likes, and each takes the worker from everybody else: its steps, and the
restarts after crashes.
"""

from __future__ import annotations

SHARE = 0.1
"""Of a worker's time, in the long run."""

SAVED_S_MAX = 30.0
"""What searches have not used they may use later, up to so many seconds, or so many restarts if these take longer: a
single search runs without a pause, whatever it costs."""

SAVED_RESTARTS = 24


class SearchShare:
    """The time that searches may take of one worker. It grows while time passes.

    Args:
        now: in seconds, never going back.
    """

    def __init__(self, now: float) -> None:
        self._saved_s = self._saved_s_max = SAVED_S_MAX
        self._updated = now

    def restart_takes(self, seconds: float) -> None:
        """Note how long the worker takes to start."""
        more = max(0.0, SAVED_RESTARTS * seconds - self._saved_s_max)
        self._saved_s_max += more
        self._saved_s += more

    def wait_s(self, now: float) -> float:
        """Return how many seconds the next step has to wait at the time ``now``."""
        self._update(now)
        return max(0.0, -self._saved_s / SHARE)

    def charge(self, seconds: float, now: float) -> None:
        """Note at the time ``now`` that searches took the worker for so many seconds."""
        self._update(now)
        self._saved_s -= seconds

    def _update(self, now: float) -> None:
        self._saved_s = min(self._saved_s_max, self._saved_s + SHARE * (now - self._updated))
        self._updated = now
