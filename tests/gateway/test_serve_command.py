"""``serve``: it starts, it says where, and it ends as it is asked to."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from embeddings_gateway.cli.serve import raise_file_limit
from embeddings_gateway.config_file import find_config
from tests.gateway.commands import PROGRAM, begin, environment, is_ready, refused, run
from tests.processes import SECONDS_MAX, Watch, children_of
from tests.server import eventually


def until_serving(command):
    """Wait until it says where it serves; return that address."""
    for line in command.stdout:
        if found := re.match(r"Serving on (http://[\d.:]+)/v1", line):
            return found[1]
    raise AssertionError(command.communicate())


def ended(command, number):
    """Send a signal; return the exit status and what was said, without a traceback."""
    command.send_signal(number)
    said = "".join(command.communicate())
    assert "Traceback" not in said
    return command.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_when_asked(tmp_path, config_file, number):
    """It serves until a signal ends it, with status 0, and leaves no worker."""
    command = begin("serve", "--config", str(config_file), "--port", "0", cwd=tmp_path)
    url = until_serving(command)
    assert httpx.get(f"{url}/readyz").status_code == 200
    (worker,) = children_of(command.pid)
    watch = Watch(worker)
    assert ended(command, number) == 0
    assert watch.ended()


def test_interrupted_while_it_loads(tmp_path, config_file):
    """Ctrl-C ends it while it loads its models, and leaves no worker."""
    command = begin("serve", "--config", str(config_file), "--port", "0", cwd=tmp_path)
    while not (workers := children_of(command.pid)):
        assert command.poll() is None
    watch = Watch(workers[0])
    assert ended(command, signal.SIGINT) == 0
    assert watch.ended()


def test_old_names(tmp_path, config_file):
    """It logs once, as it logs everything, that a setting has an old name."""
    config_file.write_text(
        '[server]\nlog_format = "json"\nconnections_max = 5\n'
        '[models.small]\nbackend = "fake"\ndimensions = [16]\n'
    )
    lines = run("serve", "--port", "0", cwd=tmp_path).stderr.splitlines()
    (event,) = [json.loads(line) for line in lines if b"renamed" in line]
    assert (event["event"], event["level"]) == ("setting renamed", "warning")
    assert (event["where"], event["old"], event["new"]) == ("server", "connections_max", "max_connections")


def test_nothing_to_serve(tmp_path, config_file):
    """When no model can be served it says why and ends with status 1."""
    config_file.write_text('[models.small]\nbackend = "fake"\ndimensions = [16]\n')
    finished = run("serve", "--port", "0", cwd=tmp_path)
    said = finished.stderr.decode()
    assert finished.returncode == 1
    assert "small is failed: dimensions has 16" in said
    assert "no model can be served" in said
    assert "Traceback" not in said


def test_some_to_serve(tmp_path, config_file):
    """A model that cannot be served is reported, and the others are served."""
    config_file.write_text('[models.broken]\nbackend = "fake"\ndimensions = [16]\n' + config_file.read_text())
    command = begin("serve", "--port", "0", cwd=tmp_path)
    url = until_serving(command)
    assert httpx.get(f"{url}/readyz").status_code == 503
    answer = httpx.post(f"{url}/v1/embeddings", json={"model": "small", "input": "a"})
    assert answer.status_code == 200
    assert ended(command, signal.SIGINT) == 0


def test_a_worker_that_dies_while_it_loads(tmp_path, config_file):
    """A model whose first worker dies is reported as loading, and as served when it is."""
    command = begin("serve", "--config", str(config_file), "--port", "0", cwd=tmp_path)
    while not (workers := children_of(command.pid)):
        assert command.poll() is None
    os.kill(workers[0], signal.SIGKILL)
    url = until_serving(command)
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert ended(command, signal.SIGINT) == 0


def test_port_taken(tmp_path, config_file):
    """A port that is in use is reported in a sentence, with status 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        finished = run("serve", "--config", str(config_file), "--port", port, cwd=tmp_path)
    said = finished.stderr.decode()
    assert finished.returncode == 1
    assert "address already in use" in said
    assert f"error: cannot listen on 127.0.0.1 port {port}" in said
    assert "Traceback" not in said


def test_closed_descriptors(tmp_path, config_file):
    """It serves, and ends well, though its standard input, output and error are closed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            'exec "$@" <&- >&- 2>&-',
            "sh",
            *PROGRAM,
            "serve",
            "--config",
            config_file,
            "--port",
            port,
        ],
        cwd=tmp_path,
        env=environment(),
    )
    try:
        eventually(lambda: is_ready(int(port)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS_MAX) == 0
    finally:
        process.kill()


def test_a_worker_is_confined(tmp_path, config_file):
    """A worker has no variables that it does not need, and gains no privileges."""
    command = begin("serve", "--config", config_file, "--port", "0", cwd=tmp_path, DB_PASSWORD="S3CRET")
    until_serving(command)
    (worker,) = children_of(command.pid)
    assert "S3CRET" in Path(f"/proc/{command.pid}/environ").read_text()
    assert "S3CRET" not in Path(f"/proc/{worker}/environ").read_text()
    assert "NoNewPrivs:\t1" in Path(f"/proc/{worker}/status").read_text()
    assert ended(command, signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("soft", "hard", "largest", "given"),
    [
        pytest.param(256, resource.RLIM_INFINITY, 65536, 65536, id="unlimited-is-refused"),
        pytest.param(256, resource.RLIM_INFINITY, 10240, 10240, id="as-on-macos"),
        pytest.param(1024, 4096, 4096, 4096, id="the-maximum"),
        pytest.param(1024, 4096, 0, 1024, id="nothing-is-taken"),
        pytest.param(4096, 4096, 0, 4096, id="it-is-the-maximum"),
        pytest.param(resource.RLIM_INFINITY, resource.RLIM_INFINITY, 0, sys.maxsize, id="unlimited"),
    ],
)
def test_the_limit_of_open_files(monkeypatch, soft, hard, largest, given):
    """It is raised to the maximum, or to what the system takes, and a system that takes nothing stops nobody."""

    def set_limit(_, limits):
        if not 0 <= limits[0] <= largest:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert raise_file_limit() == given


def test_a_working_directory_that_may_not_be_entered(monkeypatch):
    """Where the working directory cannot be read there is no configuration in it: the default is used."""

    def denied(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.delenv("EMBEDDINGS_GATEWAY_CONFIG", raising=False)
    monkeypatch.setattr(os, "stat", denied)
    assert find_config() is None


def test_a_host_that_is_none(tmp_path, config_file):
    """An option ``--host`` that is empty is refused: it would be every network."""
    assert "an address or name without a port" in refused(run("serve", "--host", "", cwd=tmp_path))
