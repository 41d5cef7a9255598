"""Tiny models, each built once a session and copied where a test changes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a function from a family's name to the directory of its tiny model. Nobody may change it."""
    built: dict[str, Path] = {}

    def build(family: str) -> Path:
        if family not in built:
            make_hf = pytest.importorskip("tests.make_hf", reason="needs torch and transformers")
            built[family] = make_hf.make_model(tmp_path_factory.mktemp(family), family)
        return built[family]

    return build


@pytest.fixture
def own(tiny: Callable[[str], Path], tmp_path: Path):
    """Return a function from a family's name to a copy of its tiny model that the test may change."""

    def copy(family: str) -> Path:
        return shutil.copytree(tiny(family), tmp_path / "model")

    return copy
