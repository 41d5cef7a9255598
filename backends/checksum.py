"""Checksums of files, compared with the pinned ones before anything parses a file; fingerprints of facts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from embeddings_gateway.backends.base import LoadError


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(root: Path, weights: Sequence[str], pinned: str | Mapping[str, str] | None) -> dict[str, str]:
    """Compare files below ``root`` with their pinned sums; return the sum of every weights file.

    ``pinned`` is one sum (of the only weights file), a table of file name -> sum, or nothing.
    """
    if isinstance(pinned, str):
        if len(weights) != 1:
            raise LoadError(f"sha256 is one sum but the model has {len(weights)} weights files: give a table")
        pinned = {weights[0]: pinned}
    sums = {name: sha256(root / name) for name in weights}
    for name, expected in (pinned or {}).items():
        file = root / name
        if not file.is_file():
            raise LoadError(f"sha256 names {name!r}, but {root} has no such file")
        actual = sums[name] if name in sums else sha256(file)
        if actual != expected:
            raise LoadError(
                f"{file}: sha256 is {actual}, the configuration pins {expected}: take the right file or change sha256"
            )
    return sums


def digest(facts: Mapping[str, object]) -> str:
    """Return the SHA-256 of facts, given as JSON values, in lower-case hex."""
    return hashlib.sha256(msgspec.json.encode(dict(facts), order="deterministic")).hexdigest()


def fingerprint(facts: Mapping[str, object]) -> str:
    """Return the id of an embedding space. Vectors may be compared only if their fingerprints are equal.

    Args:
        facts: everything a vector depends on: sums of weights and tokenizer, pooling, normalising, prompts,
            dtype, runtime.
    """
    return digest(facts)[:16]
