"""A Unix socket to listen on: made with its permissions, and removed when the server closes."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

PREFIX = "unix:"
PROBE_S = 1.0


def socket_path(host: str) -> Path | None:
    """Return the absolute path of the socket that a host such as ``unix:/run/gateway.sock`` names, else ``None``."""
    return Path(host.removeprefix(PREFIX)).absolute() if host.startswith(PREFIX) else None


class UnixSocket:
    """A listening socket in the file system.

    Args:
        path: where it is; a socket there that nobody listens on is replaced.
        mode: its permissions: who may write to it may connect.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, mode: int) -> None:
        _remove_stale(path)
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX)
        umask = os.umask(0o777 & ~mode)  # a chmod would come too late
        try:
            self.socket.bind(os.fspath(path))
        except OSError:
            self.socket.close()
            raise
        finally:
            os.umask(umask)
        self._identity = _identity(path)

    def remove(self) -> None:
        """Remove the file, unless it is another's by now."""
        if _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove_stale(path: Path) -> None:
    """Remove a socket that a process left behind.

    Raises:
        OSError: somebody listens on it, or it is no socket.
    """
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(errno.EEXIST, "The file exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            pass  # its listener is too busy to accept
    raise OSError(errno.EADDRINUSE, "Another process listens on the socket")
