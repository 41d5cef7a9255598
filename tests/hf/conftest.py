"""Tiny models, each built and converted once a run of the tests, and copied where a test changes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import make_once


@pytest.fixture(scope="session")
def tiny():
    """Return a function from a family's name to the directory of its tiny model. Nobody may change it.

    A vocabulary differs each time it is trained, so all processes share one: then they share conversions too.
    """
    make_hf = pytest.importorskip("tests.make_hf", reason="needs torch and transformers")

    def build(family: str) -> Path:
        return make_once(f"tiny-{family}", lambda directory: make_hf.make_model(directory, family))

    return build


@pytest.fixture
def own(tiny: Callable[[str], Path], tmp_path: Path):
    """Return a function from a family's name to a copy of its tiny model that the test may change."""

    def copy(family: str) -> Path:
        return shutil.copytree(tiny(family), tmp_path / "model")

    return copy
