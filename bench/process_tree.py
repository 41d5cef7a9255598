"""What a process and all its descendants cost: processor time, and memory by sampling."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

SAMPLE_S = 0.1
FAMILY_S = 1.0  # finding descendants reads all of /proc, so it is done less often
MB = 1_000_000


class ProcessTree:
    """A process and its descendants, as they are when asked."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def family(self) -> list[psutil.Process]:
        """Return the process and its descendants; none if it has ended."""
        try:
            root = psutil.Process(self._pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """Return user and system time of all, and of descendants that have ended and were waited for."""
        total = 0.0
        for process in self.family():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return total


def rss_mb(family: list[psutil.Process]) -> float:
    """Return the sum of resident memory; pages that processes share count once for each."""
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MB


def pss_mb(family: list[psutil.Process]) -> float | None:
    """Return the sum of proportional memory, where shared pages count once; ``None`` where it is not told."""
    total = 0
    for process in family:
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:
            return None
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total * 1024 / MB


class MemorySampler:
    """Watches a process tree's memory from a thread while a block runs.

    Attributes:
        rss_peak_mb: the largest sum of resident memory that was seen; a peak between two samples is missed.
            ``None`` without a process to watch.
        pss_peak_mb: the same of proportional memory, looked at once a second, if ``pss`` was asked for.
    """

    def __init__(self, tree: ProcessTree | None, *, pss: bool = False) -> None:
        self.rss_peak_mb: float | None = None
        self.pss_peak_mb: float | None = None
        self._tree = tree
        self._pss = pss
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory")

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        family, looked = self._look()
        while True:
            if family:
                self.rss_peak_mb = max(self.rss_peak_mb or 0.0, rss_mb(family))
            if self._end.wait(SAMPLE_S):
                return
            if time.monotonic() - looked > FAMILY_S:
                family, looked = self._look()

    def _look(self) -> tuple[list[psutil.Process], float]:
        family = [] if self._tree is None else self._tree.family()
        if self._pss and (pss := pss_mb(family)) is not None:
            self.pss_peak_mb = max(self.pss_peak_mb or 0.0, pss)
        return family, time.monotonic()
