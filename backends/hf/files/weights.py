"""The weights files of a model directory: which they are, their checksums, and when they changed.

Safetensors only: the other format is a pickle, and a pickle runs code when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.settings import read_json_if_present

SINGLE = "model.safetensors"
SHARDED = "model.safetensors.index.json"
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")


class Weights(msgspec.Struct, frozen=True):
    """Weights that are what the configuration says they are.

    Attributes:
        sums: file name, relative to the model's directory -> SHA-256.
        changed: when the newest of them was last changed, in Unix seconds.
    """

    sums: dict[str, str]
    changed: int


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def verify_weights(layout: Layout, pinned: str | Mapping[str, str] | None) -> Weights:
    """Find the weights and compare them with the pinned sums. Nothing but the index file is parsed.

    One sum speaks of the transformer's weights; a table may name any file of the directory.

    Raises:
        LoadError: weights are missing or not safetensors, or a sum differs.
    """
    try:
        return _verify(layout, pinned)
    except OSError as error:
        raise LoadError(f"{error.filename} cannot be read: {error.strerror}") from error


def vocabulary_sums(layout: Layout) -> dict[str, str]:
    """Return the vocabulary's sums: of ``tokenizer.json`` alone where it exists, since only it is read."""
    for pattern in VOCABULARIES[:1], VOCABULARIES[1:]:
        files = [file for name in pattern for file in sorted(layout.folder.glob(name))]
        if files:
            return {file.name: checksum.sha256(file) for file in files}
    return {}


def _verify(layout: Layout, pinned: str | Mapping[str, str] | None) -> Weights:
    root = layout.root
    transformer = [_named(layout.transformer, name) for name in _transformer(layout.folder)]
    dense = [_named(module.folder, _dense(root / module.folder)) for module in layout.dense]
    if isinstance(pinned, str):
        sums = checksum.verify(root, transformer, pinned) | checksum.verify(root, dense, None)
    else:
        sums = checksum.verify(root, transformer + dense, pinned)
    return Weights(sums=sums, changed=int(max((root / name).stat().st_mtime for name in sums)))


def _transformer(folder: Path) -> list[str]:
    """Name the transformer's files, the way transformers chooses among them: one file before shards."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    index = read_json_if_present(folder / SHARDED, _Index)
    if index is None:
        raise _missing(folder)
    shards = sorted(set(index.weight_map.values()))
    for shard in shards:
        if PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise LoadError(f"{folder / SHARDED}: {shard!r} is not a safetensors file of this directory")
        if not (folder / shard).is_file():
            raise LoadError(f"{folder / SHARDED} names {shard!r}, which is missing: fetch the model again")
    if not shards:
        raise _missing(folder)
    return shards


def _dense(folder: Path) -> str:
    if not (folder / SINGLE).is_file():
        raise _missing(folder)
    return SINGLE


def _missing(folder: Path) -> LoadError:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return LoadError(
            f"{folder} has no {SINGLE}, only pickled weights, which run code when read: safetensors only. "
            "Load the model once elsewhere and save it with save_pretrained(directory), "
            "or take a revision that has safetensors"
        )
    return LoadError(f"{folder} has no {SINGLE}: is the model directory complete?")


def _named(folder: str, name: str) -> str:
    return str(PurePosixPath(folder, name))
