"""The processor cores that this process may use, and how the replicas of a model divide them.

A core is what the system schedules on: two hyperthreads count as two. Every model divides all cores: a busy model
may use those of idle ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Cores(NamedTuple):
    """The cores that this process may use.

    Attributes:
        numbers: of the cores, hyperthreads of one core side by side; empty where the system does not pin
            processes.
        total: how many it may keep busy; a quota may make them fewer than ``numbers``.
    """

    numbers: tuple[int, ...]
    total: int


class Share(NamedTuple):
    """The cores of one replica.

    Attributes:
        threads: of its engine.
        cores: numbers of the cores that its process is pinned to; empty if it is not pinned.
    """

    threads: int
    cores: frozenset[int]


def usable(root: Path = Path("/")) -> Cores:
    """Return the cores that this process may use; ``root`` contains ``/proc`` and ``/sys``."""
    if sys.platform != "linux":
        return Cores((), os.cpu_count() or 1)
    numbers = sorted(os.sched_getaffinity(0), key=lambda number: (*_position(root, number), number))
    return Cores(tuple(numbers), min([len(numbers), *_quotas(root)]))


def divide(cores: Cores, replicas: int, threads: int | None = None) -> list[Share]:
    """Return the share of each replica, with an equal number of threads; ``threads`` overrides that number.

    Each replica is pinned to cores of its own, so that the system does not move its threads among them all. There
    are three exceptions: a single replica, more threads than cores, and a quota, which limits time and not cores.
    """
    share = threads or max(1, cores.total // replicas)
    if replicas == 1 or share * replicas > len(cores.numbers) or cores.total < len(cores.numbers):
        return [Share(share, frozenset())] * replicas
    width = len(cores.numbers) // replicas
    return [Share(share, frozenset(cores.numbers[i * width : (i + 1) * width])) for i in range(replicas)]


def _position(root: Path, number: int) -> tuple[int, ...]:
    """Return the package of a core and the number that its hyperthreads share there; empty if unknown."""
    topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
    try:
        return tuple(int((topology / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        return ()


def _quotas(root: Path) -> Iterator[int]:
    """Yield each limit on this process's processor time, in whole cores (cgroup v2)."""
    with suppress(OSError, ValueError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
        for group in (PurePosixPath(own), *PurePosixPath(own).parents):
            with suppress(OSError, ValueError):  # the root has no such file; "max" is no number
                quota, period = map(int, (root / "sys/fs/cgroup" / group / "cpu.max").read_text().split())
                yield max(1, quota // period)
