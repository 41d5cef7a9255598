"""The processor cores that this process may use, and how the replicas of a model divide them.

A core is what the system schedules on: two hyperthreads of one core count as two. Every model divides all of
them anew, as if it were alone: whichever has work gets the cores of those that have none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Cores(NamedTuple):
    """What this process may use.

    Attributes:
        numbers: of the cores that it may run on, hyperthreads of one core side by side; empty where the
            system does not pin processes.
        total: how many it may keep busy.
    """

    numbers: tuple[int, ...]
    total: int


class Share(NamedTuple):
    """What one replica gets.

    Attributes:
        threads: of its engine.
        cores: the numbers of those that its process is pinned to; empty if it is not.
    """

    threads: int
    cores: frozenset[int]


def usable(root: Path = Path("/")) -> Cores:
    """Return what this process may use; ``root`` is where ``/proc`` and ``/sys`` are."""
    if sys.platform != "linux":
        return Cores((), os.cpu_count() or 1)
    numbers = sorted(os.sched_getaffinity(0), key=lambda number: (*_place(root, number), number))
    return Cores(tuple(numbers), min([len(numbers), *_quotas(root)]))


def divide(cores: Cores, replicas: int, threads: int | None = None) -> list[Share]:
    """Return the share of each replica: an equal number of threads, unless ``threads`` says how many.

    Each is pinned to cores of its own, so that the threads of one do not push those of another from core to
    core; but not where there are more threads than cores, nor under a quota: that is time, not certain cores.
    """
    each = threads or max(1, cores.total // replicas)
    if replicas == 1 or each * replicas > len(cores.numbers) or cores.total < len(cores.numbers):
        return [Share(each, frozenset())] * replicas
    width = len(cores.numbers) // replicas
    return [Share(each, frozenset(cores.numbers[i * width : (i + 1) * width])) for i in range(replicas)]


def _place(root: Path, number: int) -> tuple[int, ...]:
    """Return where a core is: its package, and the core in it that hyperthreads share; empty if not known."""
    topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
    try:
        return tuple(int((topology / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        return ()


def _quotas(root: Path) -> Iterator[int]:
    """Yield, in whole cores, each limit on processor time above this process (cgroup v2)."""
    with suppress(OSError, ValueError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
        for group in (PurePosixPath(own), *PurePosixPath(own).parents):
            with suppress(OSError, ValueError):  # the topmost has no such file; "max" is no number
                quota, period = map(int, (root / "sys/fs/cgroup" / group / "cpu.max").read_text().split())
                yield max(1, quota // period)
