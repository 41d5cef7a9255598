"""``models``, ``check`` and ``openapi``, and how commands find their configuration."""

from __future__ import annotations

import json

import pytest

from tests.gateway.commands import refused, run

BROKEN = '[models.broken]\nbackend = "fake"\ndimensions = [16]\n'


def test_models(tmp_path, config_file):
    """``models`` lists what is configured, without loading it."""
    config_file.write_text(config_file.read_text() + BROKEN)
    ended = run("models", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    shown = ended.stdout.decode()
    assert all(word in shown for word in ("gateway.toml", "small", "little", "fake", "broken"))


def test_check(tmp_path, config_file):
    """``check`` shows the facts of every model and ends with status 0 if all are right."""
    ended = run("check", "--config", str(config_file), cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    shown = ended.stdout.decode()
    assert all(word in shown for word in ("small", "fingerprint", "1.000000", "right"))
    assert "wrong" not in shown


def test_check_of_a_broken_model(tmp_path, config_file):
    """``check`` ends with status 1 if any model is wrong, and says which one and why."""
    config_file.write_text(config_file.read_text() + BROKEN)
    ended = run("check", cwd=tmp_path)
    assert ended.returncode == 1
    said = ended.stderr.decode()
    assert "broken: failed: dimensions has 16" in said
    assert "Traceback" not in said
    assert "right" in ended.stdout.decode()


@pytest.mark.parametrize("command", ["check", "embed"])
def test_a_worker_that_crashes_while_it_loads(tmp_path, config_file, command):
    """A command says how the worker ended, and the last words of it that say why."""
    config_file.write_text('[models.small]\nbackend = "fault"\nloading = "abort"\n')
    ended = run(command, *(["a text"] if command == "embed" else []), cwd=tmp_path)
    assert ended.returncode == 1
    assert "(signal SIGABRT: assertion failed)" in " ".join(ended.stderr.decode().split())


def test_openapi(tmp_path):
    """``openapi`` writes a document that describes the embeddings route."""
    ended = run("openapi", "--output", "api/openapi.json", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    document = json.loads((tmp_path / "api" / "openapi.json").read_text())
    assert "post" in document["paths"]["/v1/embeddings"]


@pytest.mark.parametrize("command", ["serve", "check", "models", "embed"])
def test_wrong_configuration(tmp_path, config_file, command):
    """Every command that reads a configuration tells what is wrong with it, and ends with status 1."""
    config_file.write_text('[models.small]\nbackend = "fake"\nwidht = 4\n')
    assert "did you mean 'width'?" in refused(run(command, cwd=tmp_path))


def test_old_names(tmp_path, config_file):
    """A command warns of each setting that has an old name, and does its work."""
    config_file.write_text(config_file.read_text() + "queue_tokens = 1000\n")
    ended = run("models", cwd=tmp_path)
    assert ended.returncode == 0
    (warning,) = ended.stderr.decode().splitlines()
    assert warning.endswith("queue_tokens is now called max_queue_tokens: rename it")


def test_no_configuration(tmp_path):
    """A configuration that was named has to be there."""
    assert "none.toml: cannot be read" in refused(run("models", "--config", "none.toml", cwd=tmp_path))


def test_built_in_default(tmp_path):
    """Without any configuration the built-in default holds."""
    assert "all-minilm-l6-v2" in run("models", cwd=tmp_path).stdout.decode()
