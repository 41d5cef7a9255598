"""Whether the system has lately ended processes for lack of memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LATELY_S = 5.0


def memory_deaths(vmstat: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes the system has ended for lack of memory; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in vmstat.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class Shortage:
    """What the system's count of such deaths was a while ago: 5 to 10 seconds, if it is looked at that often.

    It counts those of the whole machine, so what came long before a worker's death is no reason for it. Nor
    is the count of this moment one to compare with: a large process takes a while to end.

    Args:
        now: in seconds.
        count: tells how many there were so far.
    """

    def __init__(self, now: float, count: Callable[[], int] = memory_deaths) -> None:
        self._count = count
        self._older = self._newer = self._count()
        self._looked = now

    def look(self, now: float) -> None:
        """Look at the count again, if the last look is old enough."""
        if now - self._looked >= LATELY_S:
            self._older, self._newer, self._looked = self._newer, self._count(), now

    @property
    def lately(self) -> bool:
        """Whether there were any since then."""
        return self._count() > self._older
