"""``serve``: it starts, it says where, and it ends as it is asked to."""

from __future__ import annotations

import json
import os
import re
import signal
import socket

import httpx
import pytest

from tests.gateway.commands import begin, run
from tests.processes import Watch, children_of


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
