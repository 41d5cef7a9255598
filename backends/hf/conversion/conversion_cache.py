"""The cache of conversions: finds the conversion of a model, or has a process of its own make it now.

A conversion is a directory, complete or absent, and verified before it is used. Its name is a hash of all that
it depends on. No model library is imported here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import Batch, LoadError, Vectors
from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.conversion.probes import calibration_sum
from embeddings_gateway.backends.hf.conversion.trusted_folder import make_private, refuse_untrusted
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.tokenizer_settings import TokenizerSettings
from embeddings_gateway.backends.hf.files.weights import Weights, tokenizer_sums
from embeddings_gateway.backends.hf.runtimes.runtime import Dtype, TransformerFacts
from embeddings_gateway.backends.spec import HfSpec

FORMAT = 5  # raised when conversions are made, judged or measured in another way
PACKAGES = ("openvino", "torch", "transformers")
GRAPH = "model.xml"
"""The converted network; its weights lie beside it, in ``model.bin``."""
RECORD = "record.json"
RECORD_SUM = "record.sha256"
COMMAND = (sys.executable, "-P", "-m", "embeddings_gateway.backends.hf.conversion.converting_process")
ACCESS = re.compile(r"HF_TOKEN|HF_ENDPOINT|HUGGING|\w+_proxy$", re.IGNORECASE)
"""Variables that a worker needs to download a model. They may hold tokens and passwords."""
SECONDS_MAX = 3600
CONVERTING = "Converting the model for OpenVINO, once; this takes from seconds to a few minutes.\n"


class ConversionOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be converted.

    Attributes:
        spec: the model; its path is a directory on this machine.
        key: the model's :func:`conversion_key` at the time of the order.
        folder: an empty directory for the files.
    """

    spec: HfSpec
    dtype: Dtype
    key: str
    folder: str


class ReferenceVectors(msgspec.Struct, frozen=True):
    """Token ids of inputs, and the vectors that the conversion gave them: float32, row by row, little-endian."""

    inputs: list[list[int]]
    vectors: bytes

    @classmethod
    def of(cls, batch: Batch, vectors: Vectors) -> ReferenceVectors:
        """Pack inputs and their vectors."""
        return cls([ids.tolist() for ids in batch.split()], vectors.astype("<f4").tobytes())

    def unpack(self) -> tuple[Batch, Vectors]:
        """Return the inputs and their vectors."""
        vectors = np.frombuffer(self.vectors, "<f4").reshape(len(self.inputs), -1)
        return Batch.of([np.array(ids, np.int32) for ids in self.inputs]), vectors


class Converted(msgspec.Struct, frozen=True, kw_only=True, tag="converted"):
    """A conversion that was checked.

    Attributes:
        facts: of the transformer.
        tokenizer: the settings that its tokenizer heeds.
        notes: what an operator should know of the model's files.
        sums: file name -> SHA-256.
        threads: how many computed while it was judged; ``None`` is all cores.
        batch_tokens: the cost of a batch from which on it gets no faster with so many, in tokens.
        cosine_min, cosine_mean: agreement of the probes with torch in fp32, for whoever reads the record.
        reference_vectors: of a few probes, compared again each time it is loaded.
    """

    facts: TransformerFacts
    tokenizer: TokenizerSettings
    notes: tuple[str, ...]
    sums: dict[str, str]
    threads: int | None
    batch_tokens: int
    cosine_min: float
    cosine_mean: float
    reference_vectors: ReferenceVectors


class ConversionRefused(msgspec.Struct, frozen=True, tag="refused"):
    """No conversion of this model is good enough, and why."""

    reason: str


class Unservable(msgspec.Struct, frozen=True, tag="unservable"):
    """The model cannot be served by any runtime, and why."""

    reason: str


class ConversionFailed(msgspec.Struct, frozen=True, tag="failed"):
    """There is no conversion this time; another attempt may succeed."""

    reason: str


ConversionOutcome = Converted | ConversionRefused | Unservable | ConversionFailed
CacheEntry = Converted | ConversionRefused
"""The record in the cache: a conversion, or that none is good enough."""


def conversion_key(spec: HfSpec, dtype: Dtype, layout: Layout, weights: Weights) -> str:
    """Return the name of a conversion in the cache, 32 hex digits: a hash of all that it depends on."""
    # Prompts are not part of the network.
    network = msgspec.structs.replace(layout, root=Path(), prompts={}, default_prompt=None)
    packages = (*PACKAGES, "nncf") if dtype == "int8" else PACKAGES
    facts = {
        "format": FORMAT,
        "weights": weights.sums,
        "tokenizer": tokenizer_sums(layout),
        "layout": msgspec.to_builtins(network, enc_hook=str),
        "pooling": spec.pooling,
        "normalize": spec.normalize,
        "dtype": dtype,
        "calibration": calibration_sum(spec.calibration) if dtype == "int8" else None,
        # A conversion was judged, and its best batch measured, on this kind of processor only.
        "processor": hardware.processor(),
        "packages": {name: version(name) for name in packages},
    }
    return checksum.digest(facts)[:32]


class Conversion(NamedTuple):
    """A conversion and where its files are."""

    folder: Path
    record: Converted


class ConversionSource(NamedTuple):
    """A model that can be converted, for arithmetic in ``dtype``; its layout is as read from the directory."""

    spec: HfSpec
    dtype: Dtype
    layout: Layout
    weights: Weights


class ConversionCache:
    """A directory of conversions, shared by any number of processes; by default in the user's cache.

    Nothing in it is used that others could have written.
    """

    def __init__(self, root: str | None) -> None:
        self._root = (Path(root) if root else user_cache_path("embeddings-gateway")) / "openvino"

    def __repr__(self) -> str:
        return f"ConversionCache({str(self._root)!r})"

    def folder(self, key: str) -> Path:
        """Return the directory of a conversion, which need not exist."""
        return self._root / key

    def read(self, key: str) -> CacheEntry | None:
        """Return an entry; ``None`` if it is absent or its files have changed.

        Raises:
            LoadError: others than we can write it.
        """
        folder = self.folder(key)
        for path in (self._root, folder):
            refuse_untrusted(path)
        try:
            for path in folder.iterdir():
                refuse_untrusted(path)
            if (folder / RECORD_SUM).read_text() != checksum.sha256(folder / RECORD):
                return None
            entry: CacheEntry = msgspec.json.decode((folder / RECORD).read_bytes(), type=CacheEntry)
            if isinstance(entry, ConversionRefused):
                return entry
            same = all(checksum.sha256(folder / name) == expected for name, expected in entry.sums.items())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return entry if same else None

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield an empty directory to fill, to one process at a time; it is removed when the block ends."""
        make_private(self._root)
        with FileLock(self._root / f"{key}.lock"):
            self._remove_unfinished(key)
            folder = Path(tempfile.mkdtemp(".tmp", f"{key}.", self._root))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _remove_unfinished(self, key: str) -> None:
        """Remove what processes left that were killed: only the holder of a key's lock writes. ``key``'s is ours."""
        for left in self._root.glob("*.tmp"):
            owner = left.name.partition(".")[0]
            with contextlib.suppress(Timeout, OSError):
                if owner == key:
                    shutil.rmtree(left, ignore_errors=True)
                    continue
                with FileLock(self._root / f"{owner}.lock", timeout=0):
                    shutil.rmtree(left, ignore_errors=True)

    def store(self, key: str, folder: Path, entry: CacheEntry) -> None:
        """Move a filled directory to its place at once, with its record. For the process that is writing it."""
        (folder / RECORD).write_bytes(msgspec.json.encode(entry))
        (folder / RECORD_SUM).write_text(checksum.sha256(folder / RECORD))
        self.discard(key)
        folder.rename(self.folder(key))

    def discard(self, key: str) -> None:
        """Delete a conversion. A process that has it open can go on using it."""
        folder = self.folder(key)
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def find_or_convert(
    source: ConversionSource, *, replacing: Converted | None = None
) -> Conversion | ConversionRefused | ConversionFailed:
    """Return the model's conversion, or why there is none.

    ``replacing`` is the record of a cached conversion that proved unusable.
    """
    key = conversion_key(*source)
    cache = ConversionCache(source.spec.cache_dir)
    entry = cache.read(key)
    outcome = _convert(source, key, cache, replacing) if entry is None or entry == replacing else entry
    return Conversion(cache.folder(key), outcome) if isinstance(outcome, Converted) else outcome


def _convert(
    source: ConversionSource, key: str, cache: ConversionCache, replacing: Converted | None
) -> Converted | ConversionRefused | ConversionFailed:
    try:
        with cache.writing(key) as folder:
            entry = cache.read(key)
            if entry is not None and entry != replacing:  # another process was faster
                return entry
            sys.stderr.write(CONVERTING)  # shown where there is a terminal
            # The directory is known: nothing has to be downloaded again.
            spec = msgspec.structs.replace(source.spec, path=str(source.layout.root), revision=None)
            outcome = _run(ConversionOrder(spec=spec, dtype=source.dtype, key=key, folder=str(folder)))
            if isinstance(outcome, Unservable):
                raise LoadError(outcome.reason)
            if not isinstance(outcome, ConversionFailed):
                cache.store(key, folder, outcome)
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
            env={name: value for name, value in os.environ.items() if not ACCESS.match(name)},
            timeout=SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ConversionFailed(f"converting took longer than {SECONDS_MAX} s")
    if done.returncode < 0:
        names = {number.value: number.name for number in signal.Signals}
        name = names.get(-done.returncode, -done.returncode)
        return ConversionFailed(f"the converting process was ended by signal {name}")
    try:
        return msgspec.json.decode(done.stdout, type=ConversionOutcome)  # type: ignore[no-any-return]
    except msgspec.DecodeError:
        return ConversionFailed(f"the converting process ended with status {done.returncode}")
