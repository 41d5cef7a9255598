"""Finds or downloads a model directory, and verifies its weights before anything parses them.

Safetensors only: the other format is a pickle, and a pickle runs code when it is read. Downloads go into
huggingface_hub's own cache. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they
mean to that library. It continues broken downloads, and writes its progress to standard error.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

import msgspec
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.settings import read_json_if_present

SINGLE = "model.safetensors"
SHARDED = "model.safetensors.index.json"
WEIGHTS_SUFFIX = ".safetensors"
PACKAGE = "package:"
# Weights as safetensors, settings and vocabularies. Never .bin or .pt (pickles run code) and never .py.
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model"]
# Settings of other runtimes, which nothing here reads.
UNWANTED = ["onnx/*", "openvino/*"]
VOCABULARY = "tokenizer.json"
VOCABULARY_SUFFIXES = (".bpe", ".codes", ".json", ".model", ".spm", ".tiktoken", ".txt", ".vocab")
# Read by others than tokenizers. What of them matters for a vector is part of its fingerprint anyway.
OTHERS = (
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "modules.json",
    SHARDED,
)


class Weights(msgspec.Struct, frozen=True):
    """Weights that are what the configuration says they are.

    Attributes:
        sums: file name, relative to the model's directory -> SHA-256.
        transformer: the names of the transformer's files among them. Nothing else is loaded into it.
        changed: when the newest of them was last changed, in Unix seconds.
    """

    sums: dict[str, str]
    transformer: tuple[str, ...]
    changed: int


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def locate(path: str, revision: str | None) -> Path:
    """Return the local directory that ``path`` of a spec names; a hub id is downloaded first, as far as needed."""
    in_package = path.startswith(PACKAGE)
    if not in_package and not Path(path).is_absolute():
        return _download(path, revision)
    if revision is not None:
        raise LoadError(f"revision {revision!r} belongs to a hub id, but path {path!r} is local: remove it")
    if in_package:
        return _in_package(path.removeprefix(PACKAGE))
    if not Path(path).is_dir():
        raise LoadError(f"path {path!r} is not a directory on this machine")
    return Path(path)


def _in_package(name: str) -> Path:
    """Find a directory inside an installed package, without importing (running) the package."""
    module, _, below = name.partition("/")
    if not module.isidentifier():
        raise LoadError(f"path '{PACKAGE}{name}' must read {PACKAGE}module/directory")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise LoadError(
            f"path '{PACKAGE}{name}' names a Python package that is not installed: "
            f"pip install {module.replace('_', '-')}"
        )
    for root in spec.submodule_search_locations:
        if (directory := Path(root, below)).is_dir():
            return directory
    raise LoadError(f"path '{PACKAGE}{name}': the package is installed but has no directory {below!r}")


def _download(repository: str, revision: str | None) -> Path:
    """Return the complete directory of one commit: of a branch or tag, the one it stands for now."""
    named = f"hub model {repository!r}"
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED)
        )
    except HFValidationError as error:
        raise LoadError(
            f"path {repository!r} is no absolute directory, no package:module/directory and no hub id"
        ) from error
    except GatedRepoError as error:
        raise LoadError(f"{named} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise LoadError(
            f"{named} does not exist or is private: check path (a local directory must be absolute) "
            "or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise LoadError(f"{named} has no revision {revision!r}: check revision") from error
    except LocalEntryNotFoundError as error:
        raise LoadError(
            f"{named} is not complete in the local cache and the hub cannot be reached: "
            "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error
    except Exception as error:  # the HTTP library's and the disk's own errors
        raise LoadError(f"{named} could not be downloaded: {type(error).__name__}: {error}") from error


def verify_weights(layout: Layout, pinned: str | Mapping[str, str] | None) -> Weights:
    """Find the weights and compare them with the pinned sums. Nothing but the index file is parsed.

    One sum speaks of the only weights file; a table may name any file of the directory. Pinned weights may have
    no others beside them that the table does not name, and a table that names ``config.json`` has to name all
    settings and vocabularies beside it.
    """
    root = layout.root
    dense = [str(PurePosixPath(module.folder, SINGLE)) for module in layout.dense]
    try:
        transformer = [str(PurePosixPath(layout.transformer, name)) for name in _transformer(layout.folder)]
        for name in dense:
            if not (root / name).is_file():
                raise _missing((root / name).parent)
        sums = checksum.verify(root, transformer + dense, pinned)
        if pinned is not None:
            _refuse_unpinned(layout, {*sums, *([] if isinstance(pinned, str) else pinned)})
        changed = int(max((root / name).stat().st_mtime for name in sums))
        return Weights(sums=sums, transformer=tuple(transformer), changed=changed)
    except OSError as error:
        raise LoadError(f"{error.filename} cannot be read: {error.strerror}") from error


def _refuse_unpinned(layout: Layout, pinned: Collection[str]) -> None:
    """Refuse files that somebody may have put beside pinned ones, to be read with them or instead of them."""
    settings_too = str(PurePosixPath(layout.transformer, "config.json")) in pinned
    suffixes = (WEIGHTS_SUFFIX, *(VOCABULARY_SUFFIXES if settings_too else ()))
    for file in sorted({*layout.root.iterdir(), *layout.folder.iterdir()}):
        if file.suffix in suffixes and file.is_file() and str(file.relative_to(layout.root)) not in pinned:
            raise LoadError(f"{file} lies beside pinned files: remove it, or add its sum to sha256")


def vocabulary_sums(layout: Layout) -> dict[str, str]:
    """Return the vocabulary's sums: of ``tokenizer.json`` alone where it exists.

    Its settings in other files are judged when the model is converted, see :func:`tokenizer_sums`.
    """
    file = layout.folder / VOCABULARY
    return {VOCABULARY: checksum.sha256(file)} if file.is_file() else tokenizer_sums(layout)


def tokenizer_sums(layout: Layout) -> dict[str, str]:
    """Return the sums of all files beside the weights that a tokenizer could be made of."""
    files = [file for file in sorted(layout.folder.iterdir()) if file.suffix in VOCABULARY_SUFFIXES]
    return {file.name: checksum.sha256(file) for file in files if file.is_file() and file.name not in OTHERS}


def _transformer(folder: Path) -> list[str]:
    """Return the names of the transformer's files, chosen as transformers does: one file before shards."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    index = read_json_if_present(folder / SHARDED, _Index)
    shards = sorted(set(index.weight_map.values())) if index else []
    if not shards:
        raise _missing(folder)
    for shard in shards:
        if PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise LoadError(f"{folder / SHARDED}: {shard!r} is not a safetensors file of this directory")
        if not (folder / shard).is_file():
            raise LoadError(f"{folder / SHARDED} names {shard!r}, which is missing: fetch the model again")
    return shards


def _missing(folder: Path) -> LoadError:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return LoadError(
            f"{folder} has no {SINGLE}, only pickled weights, which run code when read: safetensors only. "
            "Load the model once elsewhere and save it with save_pretrained(directory), "
            "or take a revision that has safetensors"
        )
    if any(folder.glob("**/*.onnx")):
        return LoadError(
            f"{folder} has no {SINGLE}, only ONNX, which is not loaded: take a revision that has safetensors, "
            "or the model that it was exported from"
        )
    return LoadError(f"{folder} has no {SINGLE}: is the model directory complete?")
