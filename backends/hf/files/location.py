"""From the ``path`` of a spec to a model directory on this machine; a model of the hub is downloaded.

Downloads go into huggingface_hub's own cache. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and
``HF_HUB_OFFLINE`` mean what they mean to that library, which also continues a file where a connection broke
and after a restart fetches only the files that are missing. Progress is written to standard error, which the
gateway passes on to a terminal.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from embeddings_gateway.backends.base import LoadError

PACKAGE = "package:"
# Weights as safetensors, settings and vocabularies. Never .bin or .pt (pickles run code) and never .py.
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model"]
# Settings of other runtimes, which nothing here reads.
UNWANTED = ["onnx/*", "openvino/*"]


def locate(path: str, revision: str | None) -> Path:
    """Return the local directory that ``path`` names; a hub id is downloaded first, as far as needed.

    Args:
        path: an absolute directory, ``package:module/sub``, or a hub id.
        revision: commit, tag or branch of a hub id.

    Raises:
        LoadError: there is no such directory, package or repository, or a local path has a revision.
    """
    local = path.startswith(PACKAGE) or Path(path).is_absolute()
    if not local:
        return _download(path, revision)
    if revision is not None:
        raise LoadError(f"revision {revision!r} belongs to a hub id, but path {path!r} is local: remove it")
    return _in_package(path.removeprefix(PACKAGE)) if path.startswith(PACKAGE) else _directory(Path(path))


def _directory(path: Path) -> Path:
    if not path.is_dir():
        raise LoadError(f"path {str(path)!r} is not a directory on this machine")
    return path


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
    """Return the directory of one commit of ``repository``, complete.

    A branch or tag is resolved to the commit it stands for now. What the cache has is not fetched again.

    Raises:
        LoadError: no such repository or revision, no access, no connection, or no room on the disk.
    """
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
