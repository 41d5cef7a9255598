"""Whether a folder's content can only have been written by us or by somebody whom we trust anyway.

Checksums beside a conversion prove nothing against somebody who can write them too. Trusted are root, our own
user, and where we belong to the group 0, as containers with a random user do (OpenShift), those of that group.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from embeddings_gateway.backends.base import LoadError

ROOT = 0


def make_private(folder: Path) -> None:
    """Make a folder and the missing ones above it, open to nobody else."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def refuse_untrusted(path: Path) -> None:
    """Raise a LoadError if others can write a folder or file. One that does not exist is no problem."""
    if not hasattr(os, "geteuid"):
        return
    for facts_of in (Path.lstat, Path.stat):  # of a link, and of what it leads to
        try:
            reason = untrusted(facts_of(path), os.geteuid(), os.getegid())
        except OSError:  # what cannot be looked at cannot be read either
            return
        if reason:
            raise LoadError(
                f"{path} {reason}, so its content cannot be trusted: remove it, or set cache_dir to a folder "
                "that nobody else can write"
            )


def untrusted(facts: os.stat_result, user: int, group: int) -> str:
    """Return who else can write a folder or file, for a process of ``user`` and ``group``; empty if nobody."""
    shared_with_root = facts.st_gid == ROOT and group == ROOT
    if facts.st_uid not in (ROOT, user) and not shared_with_root:
        return f"belongs to the user {facts.st_uid}"
    if stat.S_ISLNK(facts.st_mode):
        return ""  # a link's own mode means nothing
    if facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
        return "can be written by every user"
    if facts.st_mode & stat.S_IWGRP and facts.st_gid not in (ROOT, group):
        return f"can be written by the group {facts.st_gid}"
    return ""
