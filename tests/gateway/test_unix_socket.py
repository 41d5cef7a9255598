"""A gateway that listens on a Unix socket instead of a port."""

from __future__ import annotations

import os
import signal
import socket
import stat

import httpx
import pytest

from embeddings_gateway.server.unix_socket import UnixSocket, socket_path
from tests.gateway.commands import run
from tests.server import serving

CONFIG = '[server]\nhost = "unix:gateway.sock"\n{}\n[models.m]\nbackend = "fake"\n'


def client_of(path):
    """Return a client of the gateway behind a socket."""
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost", timeout=60)


def test_it_serves_and_cleans_up(tmp_path):
    """It answers on the socket, which has the permissions of the setting and is gone when the gateway has ended."""
    path = tmp_path / "gateway.sock"
    with serving(tmp_path, CONFIG.format('socket_mode = "0600"')) as server, client_of(path) as client:
        answer = client.post("/v1/embeddings", json={"model": "m", "input": ["a", "b"]})
        assert (answer.status_code, len(answer.json()["data"])) == (200, 2)
        assert client.get("/readyz").status_code == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert server.url == "http://localhost"
    assert not path.exists()


def test_a_socket_that_was_left_behind(tmp_path):
    """After a gateway was killed the next one takes its place; one that lives keeps its socket."""
    path = tmp_path / "gateway.sock"
    with serving(tmp_path, CONFIG.format("")) as killed:
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
        assert path.exists()
        with serving(tmp_path, CONFIG.format("")), client_of(path) as client:
            refused = run("serve", "--config", str(tmp_path / "gateway.toml"), cwd=tmp_path)
            assert refused.returncode == 1
            assert f"cannot listen on unix:{path}: Another process listens" in refused.stderr.decode()
            assert client.get("/livez").status_code == 200


def test_what_is_no_socket_is_left_alone(tmp_path):
    """A file in its place is an error, and stays."""
    path = tmp_path / "file"
    path.write_text("dear")
    with pytest.raises(FileExistsError):
        UnixSocket(path, 0o660)
    assert path.read_text() == "dear"


def test_a_socket_that_another_has_taken(tmp_path):
    """Only the own socket is removed."""
    path = tmp_path / "gateway.sock"
    own = UnixSocket(path, 0o660)
    path.unlink()
    with own.socket, socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))
        own.remove()
        assert path.exists()


def test_names_of_sockets(tmp_path, monkeypatch):
    """A relative path is made absolute; a host is no path."""
    monkeypatch.chdir(tmp_path)
    assert socket_path("unix:a.sock") == tmp_path / "a.sock"
    assert str(socket_path("unix:/run/a.sock")) == "/run/a.sock"
    assert socket_path("127.0.0.1") is None
