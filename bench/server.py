"""A server that is measured over HTTP: started or found, asked for a vector, ended."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from bench.run_spec import Endpoint, RunError

START_S = 900.0  # a first start may convert a large model
END_S = 30.0
LOOK_S = 0.02
ANSWER_S = 60.0
OK = 200


class Recipe(NamedTuple):
    """How a server is started."""

    command: tuple[str, ...]  # {port} stands for the port
    base: str  # what goes before /embeddings in its paths
    model: str  # the name to ask for
    folder: str | None = None  # the working directory
    settings: Mapping[str, str] = {}  # of its environment, over ours


class Server:
    """A server in a process that belongs to this object, with its ``pid``."""

    def __init__(self, recipe: Recipe) -> None:
        """Start the process; it answers only after :meth:`ready`.

        Raises:
            RunError: its command is not there.
        """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self._url, self._model = f"http://127.0.0.1:{port}{recipe.base}/embeddings", recipe.model
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self._process = subprocess.Popen(
                [part.replace("{port}", str(port)) for part in recipe.command],
                cwd=recipe.folder,
                env={**os.environ, **recipe.settings},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise RunError(f"{recipe.command[0]} is not there; make bench-peers installs the peers") from None
        self.pid = self._process.pid

    def ready(self) -> Endpoint:
        """Wait for the first vector.

        Raises:
            RunError: none came.
        """
        end, reason = time.monotonic() + START_S, ""
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RunError(f"ended with status {self._process.returncode}: {self._last_output()}")
            try:
                return find_endpoint(self._url, self._model, self.pid)
            except RunError as error:
                reason = str(error)
                time.sleep(LOOK_S)
        raise RunError(f"not ready after {START_S:.0f} s: {reason}")

    def close(self) -> None:
        """End the process, kindly at first."""
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _last_output(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 1000))
        return self._log.read().decode(errors="replace").strip()


def find_endpoint(url: str, model: str, pid: int | None) -> Endpoint:
    """Ask for one vector, to learn whether the server answers and knows base64.

    Raises:
        RunError: it does not answer, or not with a vector.
    """
    for fields in ({"encoding_format": "base64"}, {}):
        status, body = _request(url, {"model": model, "input": ["a"], **fields})
        if status == OK:
            (item,) = msgspec.json.decode(body)["data"]
            return Endpoint(url, model, pid, isinstance(item["embedding"], str))
    raise RunError(f"status {status}: {body[:300].decode(errors='replace')}")


def gateway_runtime(endpoint: Endpoint) -> str:
    """Return runtime and dtype of a gateway's only model."""
    _, body = _request(endpoint.url.replace("/embeddings", "/models"))
    (model,) = msgspec.json.decode(body)["data"]
    return f"{model['runtime']}, {model['dtype']}"


def _request(url: str, fields: Mapping[str, object] | None = None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=ANSWER_S)
    method, body = ("POST", msgspec.json.encode(fields)) if fields else ("GET", None)
    try:
        connection.request(method, parts.path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise RunError(f"{url} does not answer: {error}") from None
    finally:
        connection.close()
