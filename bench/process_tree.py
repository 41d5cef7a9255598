"""What a process and all its descendants use: processor time, and memory by sampling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

SAMPLE_S = 0.1
LOOK_EVERY = 10  # samples: finding descendants reads all of /proc
MB = 1_000_000


class ProcessTree:
    """A process and its descendants, as they are at each call; nothing is 0 if the process has ended."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def family(self) -> list[psutil.Process]:
        """Return the process and its descendants."""
        try:
            root = psutil.Process(self._pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """Return user and system time of all, and of descendants that have ended and were waited for."""
        return total(self.family(), lambda process: sum(process.cpu_times()[:4]))

    def root_cpu_s(self) -> float:
        """Return user and system time of the process alone."""
        return total(self.family()[:1], lambda process: sum(process.cpu_times()[:2]))

    def rss_mb(self) -> float:
        """Return the sum of resident memory; pages that processes share count once for each."""
        return total(self.family(), rss)

    def pss_mb(self) -> float:
        """Return the sum of proportional memory, where shared pages count once."""
        return total(self.family(), _pss)


def total(family: list[psutil.Process], measure: Callable[[psutil.Process], float]) -> float:
    """Return the sum over the processes that have not ended."""
    result = 0.0
    for process in family:
        try:
            result += measure(process)
        except (psutil.NoSuchProcess, OSError):
            continue
    return result


def rss(process: psutil.Process) -> float:
    """Return a process' resident memory in MB."""
    return process.memory_info().rss / MB  # type: ignore[no-any-return]


def _pss(process: psutil.Process) -> float:
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024 / MB


class Memory(msgspec.Struct):
    """The largest sums of memory that were sampled; ``None`` if not known."""

    rss_peak_mb: float | None = None
    pss_peak_mb: float | None = None  # proportional memory, sampled once a second


@contextmanager
def sample_memory(pid: int | None, *, pss: bool = False) -> Iterator[Memory]:
    """Sample a process tree's memory from a thread while a block runs; the result is complete after it."""
    memory, ended = Memory(), threading.Event()
    if pid is None:
        yield memory
        return
    thread = threading.Thread(target=_sample, args=(ProcessTree(pid), memory, ended, pss), daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()


def _sample(tree: ProcessTree, memory: Memory, ended: threading.Event, pss: bool) -> None:
    family, samples = tree.family(), 0
    while samples == 0 or not ended.wait(SAMPLE_S):
        if samples % LOOK_EVERY == 0:
            family = tree.family()
            if pss:
                memory.pss_peak_mb = max(memory.pss_peak_mb or 0.0, tree.pss_mb())
        memory.rss_peak_mb = max(memory.rss_peak_mb or 0.0, total(family, rss))
        samples += 1
