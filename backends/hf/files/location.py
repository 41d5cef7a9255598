"""From the ``path`` of a spec to a model directory on this machine. What is in it is layout's concern."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files import hub

PACKAGE = "package:"


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
        return hub.download(path, revision)
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
