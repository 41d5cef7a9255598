"""The files that a model was loaded from, and whether somebody has changed one in place since.

Engines map files into memory: what is written into such a file is computed with at once. A file that another one
is renamed over is not changed: whoever has opened it keeps what it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class LoadedFiles:
    """Files as they are when this is made. They are kept open. Any thread may call it.

    Args:
        paths: the files; those that are gone already are left out.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: list[_LoadedFile] = []
        for path in sorted({path.resolve() for path in paths}):
            with suppress(OSError):
                self._files.append(_LoadedFile(path))

    def changed(self) -> str:
        """Return the path of a file whose content may have changed since it was loaded; empty if none has."""
        return next((str(file.path) for file in self._files if file.has_changed()), "")

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file.descriptor)
        self._files = []


class _LoadedFile:
    """An open file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._before = os.fstat(self.descriptor)

    def has_changed(self) -> bool:
        before, now = self._before, os.fstat(self.descriptor)
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            return True
        if now.st_ctime_ns == before.st_ctime_ns:
            return False
        # The time of writing can be set back, and that sets the other one. So does a change of its names.
        if now.st_nlink == before.st_nlink and self._has_its_name(now):
            return True
        self._before = now
        return False

    def _has_its_name(self, now: os.stat_result) -> bool:
        with suppress(OSError):
            return os.path.samestat(now, self.path.stat())
        return False
