"""The cache of conversions: finds the conversion of a model, or has a process of its own make it now.

A conversion is a directory, complete or absent, and verified before it is used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from filelock import FileLock
from platformdirs import user_cache_path

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.conversion.record import (
    ConversionFailed,
    ConversionOrder,
    ConversionOutcome,
    ConversionRefused,
    Converted,
    Unservable,
    conversion_key,
)
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.runtimes.runtime import Dtype
from embeddings_gateway.backends.spec import HfSpec

RECORD = "record.json"
RECORD_SUM = "record.sha256"
Kept = Converted | ConversionRefused
"""What the cache keeps: a conversion, or that none is good enough."""
COMMAND = (sys.executable, "-P", "-m", "embeddings_gateway.backends.hf.conversion.convert")
SECONDS_MAX = 3600
CONVERTING = "Converting the model for OpenVINO, once; this takes from seconds to a few minutes.\n"


class Conversion(NamedTuple):
    """A conversion and where its files are."""

    folder: Path
    record: Converted


class ConversionSource(NamedTuple):
    """A model that can be converted.

    Attributes:
        spec: how it is configured.
        dtype: of the arithmetic.
        layout: as read from the directory.
        weights: verified.
    """

    spec: HfSpec
    dtype: Dtype
    layout: Layout
    weights: Weights


class ConversionCache:
    """A directory of conversions, shared by any number of processes.

    Args:
        root: the directory; ``None`` is ``embeddings-gateway`` in the user's cache directory.
    """

    def __init__(self, root: str | None) -> None:
        self._root = (Path(root) if root else user_cache_path("embeddings-gateway")) / "openvino"

    def __repr__(self) -> str:
        return f"ConversionCache({str(self._root)!r})"

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
            if isinstance(kept, ConversionRefused):
                return kept
            same = all(checksum.sha256(folder / name) == known for name, known in kept.sums.items())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return kept if same else None

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield an empty directory to fill, to one process at a time; it is removed when the block ends.

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


def find_or_convert(
    source: ConversionSource, *, replacing: Converted | None = None
) -> Conversion | ConversionRefused | ConversionFailed:
    """Return the model's conversion, or why there is none.

    Args:
        source: the model.
        replacing: the record of a kept one that turned out not to be usable.

    Raises:
        LoadError: the model cannot be served by any runtime.
    """
    key = conversion_key(*source)
    cache = ConversionCache(source.spec.cache_dir)
    kept = cache.read(key)
    outcome = _convert(source, key, cache, replacing) if kept is None or kept == replacing else kept
    return Conversion(cache.folder(key), outcome) if isinstance(outcome, Converted) else outcome


def _convert(
    source: ConversionSource, key: str, cache: ConversionCache, replacing: Converted | None
) -> Converted | ConversionRefused | ConversionFailed:
    try:
        with cache.writing(key) as folder:
            kept = cache.read(key)
            if kept is not None and kept != replacing:  # another process was faster
                return kept
            sys.stderr.write(CONVERTING)  # shown where there is a terminal
            # The worker has found the directory; nothing is to be fetched again.
            spec = msgspec.structs.replace(source.spec, path=str(source.layout.root), revision=None)
            outcome = _run(ConversionOrder(spec=spec, dtype=source.dtype, key=key, folder=str(folder)))
            if isinstance(outcome, Unservable):
                raise LoadError(outcome.reason)
            if not isinstance(outcome, ConversionFailed):
                cache.keep(key, folder, outcome)
            return outcome
    except OSError as error:
        return ConversionFailed(
            f"{cache!r} cannot be written: {error.strerror}; cache_dir names another place"
        )


def _run(order: ConversionOrder) -> ConversionOutcome:
    """Start a process that carries out the order, and wait for it."""
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [*COMMAND, str(os.getpid())],
            input=msgspec.json.encode(order),
            stdout=subprocess.PIPE,
            timeout=SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ConversionFailed(f"converting took longer than {SECONDS_MAX} s")
    if done.returncode < 0:
        return ConversionFailed(
            f"the converting process was ended by {signal.Signals(-done.returncode).name}"
        )
    try:
        outcome: ConversionOutcome = msgspec.json.decode(done.stdout, type=ConversionOutcome)
    except msgspec.DecodeError:
        return ConversionFailed(f"the converting process ended with status {done.returncode}")
    return outcome
