"""Where conversions are kept: one directory each, complete or absent, and never taken on trust."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from filelock import FileLock
from platformdirs import user_cache_path

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.hf.conversion.record import Converted, Refused

RECORD = "record.json"
RECORD_SUM = "record.sha256"
Kept = Converted | Refused


class Cache:
    """A directory of conversions, shared by any number of processes.

    Args:
        root: the directory; ``None`` is ``embeddings-gateway`` in the user's cache directory.
    """

    def __init__(self, root: str | None) -> None:
        self._root = (Path(root) if root else user_cache_path("embeddings-gateway")) / "openvino"

    def __repr__(self) -> str:
        return f"Cache({str(self._root)!r})"

    def folder(self, key: str) -> Path:
        """Return the directory of a conversion, whether it is there or not."""
        return self._root / key

    def read(self, key: str) -> Kept | None:
        """Return what is kept, or nothing where it is absent or not what it was when it was kept."""
        folder = self.folder(key)
        try:
            if (folder / RECORD_SUM).read_text() != checksum.sha256(folder / RECORD):
                return None
            kept: Kept = msgspec.json.decode((folder / RECORD).read_bytes(), type=Kept)
            if isinstance(kept, Refused):
                return kept
            same = all(checksum.sha256(folder / name) == known for name, known in kept.sums.items())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return kept if same else None

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Give an empty directory to fill, to one process at a time; it is gone when the block ends.

        Raises:
            OSError: the cache cannot be written.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self._root / f"{key}.lock"):
            for left in self._root.glob(f"{key}.*.tmp"):  # by a process that was killed: nobody else writes
                shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(".tmp", f"{key}.", self._root))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def keep(self, key: str, folder: Path, kept: Kept) -> None:
        """Put a filled directory in its place, all at once. For the process that is writing it.

        Raises:
            OSError: the cache cannot be written.
        """
        (folder / RECORD).write_bytes(msgspec.json.encode(kept))
        (folder / RECORD_SUM).write_text(checksum.sha256(folder / RECORD))
        self.discard(key)
        folder.rename(self.folder(key))

    def discard(self, key: str) -> None:
        """Forget a conversion. A process that has it open keeps what it has."""
        folder = self.folder(key)
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)
