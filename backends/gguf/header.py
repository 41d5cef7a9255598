"""The first bytes of a GGUF file, judged before a parser written in C sees them.

It refuses what is plainly no model file with a sentence that says so. What the file holds is left to
llama.cpp, which refuses more.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from embeddings_gateway.backends.base import LoadError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
HEADER = struct.Struct("<4sIQQ")  # magic, version, tensors, metadata entries
ENTRY_BYTES_MIN = 12  # the shortest metadata entry: an empty key, its type, nothing else
SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def check(path: Path) -> None:
    """Refuse a path that cannot be one whole GGUF model file.

    Raises:
        LoadError: not an absolute path, no file, no GGUF, an unknown version, one part of several.
    """
    if not path.is_absolute():
        raise LoadError(f"{path}: give the absolute path of a GGUF file")
    if not path.is_file():
        raise LoadError(f"{path}: there is no such file")
    _check_whole(path)
    _check_header(path)


def _check_whole(path: Path) -> None:
    """Refuse a part: llama.cpp would find the others by name, and no sum would cover them."""
    shard = SHARD.search(path.name)
    if shard and int(shard[1]) > 1:
        raise LoadError(f"{path}: one part of {int(shard[1])}; merge them with llama-gguf-split --merge")


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(HEADER.size)
    if start[:4] != MAGIC:
        raise LoadError(f"{path}: not a GGUF file")
    if len(start) < HEADER.size:
        raise LoadError(f"{path}: cut short after {len(start)} bytes")
    _magic, version, tensors, entries = HEADER.unpack(start)
    if version not in VERSIONS:
        raise LoadError(f"{path}: GGUF version {version}, but only {VERSIONS} are known; convert it again")
    if tensors == 0:
        raise LoadError(f"{path}: holds no tensors (a vocabulary, or the index of a split model)")
    if (tensors + entries) * ENTRY_BYTES_MIN > path.stat().st_size:
        raise LoadError(f"{path}: cut short or damaged: it is too small for what its header announces")
