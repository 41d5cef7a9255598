"""What is installed: one import name, whatever names a user's own folders have."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

APPLICATION = """
import backends, gateway
from embeddings_gateway import Embedder
with Embedder({"models": {"m": {"backend": "fake"}}}) as embedder:
    print(backends.OWN, gateway.OWN, embedder.embed(["a", "b"]).vectors.shape)
"""


def build(root: Path, target: str, folder: Path) -> Path:
    """Build what is distributed from a source tree, and return the file."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Return the wheel of this tree, and the one that is built from its source archive."""
    pytest.importorskip("hatchling", reason="the extra test is not installed")
    folders = [tmp_path_factory.mktemp(name) for name in ("wheel", "archive", "source", "from_source")]
    wheel, archive = build(ROOT, "wheel", folders[0]), build(ROOT, "sdist", folders[1])
    with tarfile.open(archive) as file:
        file.extractall(folders[2], filter="data")
    (tree,) = folders[2].iterdir()
    return wheel, build(tree, "wheel", folders[3])


def test_one_import_name(wheels):
    """The wheel installs the package and the old name, and is the same from the source archive."""
    names = [sorted(zipfile.ZipFile(wheel).namelist()) for wheel in wheels]
    assert names[0] == names[1]
    tops = {name.partition("/")[0] for name in names[0]}
    assert {top for top in tops if "dist-info" not in top} == {"embeddings_gateway", "gateway.py"}
    assert {"embeddings_gateway/py.typed", "embeddings_gateway/backends/worker.py"} <= set(names[0])


def test_a_users_own_names(wheels, tmp_path):
    """An application with a folder ``backends`` and a module ``gateway`` of its own embeds all the same."""
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheels[0]).extractall(installed)
    for own in ("backends.py", "gateway.py"):
        (tmp_path / own).write_text("OWN = 1\n")
    (tmp_path / "application.py").write_text(APPLICATION)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "application.py")],
        env={"PYTHONPATH": str(installed), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("1 1 (2, 8)\n", 0), done.stderr


def test_the_old_name(wheels, tmp_path):
    """``from gateway import Embedder`` works for one more release, and says what to write instead."""
    zipfile.ZipFile(wheels[0]).extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "from gateway import Embedder; print(Embedder.__name__)"],
        env={"PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "always"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Embedder\n", done.stderr
    assert "import embeddings_gateway instead of gateway" in done.stderr
