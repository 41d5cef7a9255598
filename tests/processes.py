"""What tests ask the operating system about processes. Linux only."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

SECONDS_MAX = 120
"""A bound for what is waited for, on a machine that is busy with something else; no test measures it."""


def children_of(pid: int) -> list[int]:
    """Return the ids of the processes that ``pid`` started and that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:  # ended in between
                continue
            if int(parent) == pid and state != "Z":
                found.append(int(entry.name))
    return found


def only_child_of(pid: int) -> int:
    """Return the id of the one process that ``pid`` started."""
    (child,) = children_of(pid)
    return child


def freeze(pid: int) -> None:
    """Stop a child of this process in the midst of whatever it does, and wait until it stands still."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


class Watch:
    """An eye on a process that need not be ours; opened while it lives."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def ended(self) -> bool:
        """Wait until the process has ended, within bounds; return whether it has."""
        try:
            return bool(select.select([self._fd], [], [], SECONDS_MAX)[0])
        finally:
            os.close(self._fd)
