"""Models from a hub, downloaded from a small one on this machine.

Each download is a process of its own, because huggingface_hub reads its environment when it is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

from tests.hf.small_hub import MODEL, serving
from tests.make_hf import make_model
from tests.server import eventually
from tests.server import serving as gateway

OLD, NEW, BIG = "a" * 40, "b" * 40, "c" * 40
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
LOCATE = """
import json, sys
from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files.weights import locate
try:
    print(json.dumps({"directory": str(locate(*json.loads(sys.argv[1])))}))
except LoadError as error:
    print(json.dumps({"error": str(error)}))
"""
EMBED = """
import json, sys
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
path, revision = json.loads(sys.argv[1])
backend = HfBackend(HfSpec(path=path, revision=revision, runtime="torch", max_batch_tokens=512))
print(json.dumps({"rows": len(backend.run(backend.tokenize(["a river"]), ("dense",))["dense"].values)}))
"""


@pytest.fixture(scope="module")
def commits(tmp_path_factory):
    """Make two commits of a model with different weights, each with files that must stay where they are."""
    directories = {}
    for seed, commit in enumerate((OLD, NEW)):
        directory = make_model(tmp_path_factory.mktemp("commit"), "bert", seed=seed)
        for name in ("pytorch_model.bin", "modeling_tiny.py", "weights.pkl", "README.md"):
            (directory / name).write_bytes(b"not wanted")
        directories[commit] = directory
    return directories


@pytest.fixture
def hub(commits):
    """Serve the model; ``main`` is the newer commit."""
    with serving(commits, {"main": NEW}) as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Return a function that asks for a model in a fresh process, whose cache is the test's own."""

    def run(path=MODEL, revision=None, script=LOCATE, **environment):
        names = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps([path, revision])],
            env={**os.environ, **names, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) | {"stderr": done.stderr}

    return run


def test_model_of_the_hub(run):
    """A hub id is downloaded and served, and tells its progress."""
    done = run(script=EMBED)
    assert done["rows"] == 1
    assert "100%" in done["stderr"]


def test_only_what_is_wanted_is_downloaded(hub, run):
    """Weights, settings and vocabulary are downloaded; pickles and code are never requested."""
    directory = Path(run()["directory"])
    assert {file.name for file in directory.iterdir()} == WANTED
    assert hub.downloaded() == WANTED


def test_revision_is_respected(run, commits):
    """A branch is its newest commit, and a pinned commit is that commit."""
    for revision, commit in ((None, NEW), ("main", NEW), (OLD, OLD)):
        directory = Path(run(revision=revision)["directory"])
        assert directory.name == commit
        weights = (commits[commit] / "model.safetensors").read_bytes()
        assert (directory / "model.safetensors").read_bytes() == weights


def test_second_load_needs_no_hub(hub, run):
    """What was downloaded once is found offline."""
    first = run()
    seen = len(hub.asked)
    assert run(HF_HUB_OFFLINE="1")["directory"] == first["directory"]
    assert len(hub.asked) == seen


def test_broken_connection_is_resumed(hub, run, commits, tmp_path):
    """A download that breaks off goes on where it stopped."""
    content = os.urandom(25 * 2**20)  # the library writes in pieces of 10 MiB
    large = shutil.copytree(commits[NEW], tmp_path / "large")
    (large / "notes.txt").write_bytes(content)
    hub.commits = {BIG: large}
    hub.break_once = {"notes.txt"}
    directory = Path(run(revision=BIG)["directory"])
    assert hub.ranges == [f"bytes={10 * 2**20}-"]
    assert (directory / "notes.txt").read_bytes() == content


@pytest.mark.parametrize(
    ("path", "revision", "environment", "says"),
    [
        ("someone/absent", None, {}, "check path"),
        (MODEL, "v9", {}, "check revision"),
        (MODEL, None, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (MODEL, None, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "HF_ENDPOINT"),
        ("../relative/model", None, {}, "no absolute directory"),
    ],
)
def test_what_cannot_be_fetched(run, path, revision, environment, says):
    """A model that the hub does not have or give is an error that says what to check."""
    assert says in run(path, revision, **environment)["error"]


def test_a_password_in_the_hubs_address(hub, tmp_path):
    """A hub that refuses a user is reported without the user's password or token, and to clients without a message."""
    hub.refuses = True
    settings = {
        "HF_ENDPOINT": hub.endpoint.replace("//", "//user:S3CRET@"),
        "HF_TOKEN": "hf_S3CRETS3CRETS3CRETS3CRET",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
    }
    config = f'[models.m]\nbackend = "hf"\npath = "{MODEL}"\n[models.f]\nbackend = "fake"\n'
    with gateway(tmp_path, config, ready=False, settings=settings) as server:
        eventually(lambda: httpx.get(f"{server.url}/readyz").json()["models"]["m"]["state"] == "failed")
        answer = httpx.get(f"{server.url}/readyz")
    assert answer.json()["models"]["m"]["reason"] == "it cannot be served; the log says why"
    logged = server.log.read_text()
    assert "model cannot be served" in logged
    assert "S3CRET" not in logged
