"""A server that is measured over HTTP: found or started, tried out, ended."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

START_S = 900.0  # a first start may convert a large model
END_S = 30.0
LOOK_S = 0.02
ANSWER_S = 60.0
OK = 200


class ServerError(Exception):
    """A server cannot be used; the message says why, with its last words if it has any."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is started.

    Attributes:
        command: ``{port}`` stands for the port.
        base: what goes before ``/embeddings`` in its paths.
        model: the name to ask for.
        environment: what is set over ours.
        folder: the working directory.
    """

    command: tuple[str, ...]
    base: str
    model: str
    environment: Mapping[str, str] = {}
    folder: str | None = None


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server answers, and how it is asked.

    Attributes:
        base64: whether it knows that encoding.
        pid: the root of its processes; ``None`` where it is not known.
    """

    host: str
    port: int
    path: str
    model: str
    base64: bool = False
    pid: int | None = None


class Server:
    """A server in a process that belongs to this object."""

    def __init__(self, recipe: Recipe) -> None:
        """Start the process; it is ready only after :meth:`ready`."""
        port = free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in recipe.command],
            cwd=recipe.folder,
            env={**os.environ, **recipe.environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.address = Address(
            host="127.0.0.1",
            port=port,
            path=f"{recipe.base}/embeddings",
            model=recipe.model,
            pid=self.pid,
        )

    def ready(self) -> Address:
        """Wait for the first vector; return the address with what was found out.

        Raises:
            ServerError: none came.
        """
        end = time.monotonic() + START_S
        said = "nothing"
        while time.monotonic() < end:
            if not self.alive:
                raise ServerError(f"ended with status {self._process.returncode}: {self.last_words()}")
            try:
                self.address = tried_out(self.address)
            except (OSError, http.client.HTTPException, ServerError) as error:
                said = str(error)
                time.sleep(LOOK_S)
                continue
            return self.address
        raise ServerError(f"not ready after {START_S:.0f} s; its last answer: {said}")

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """Return the end of what the process wrote."""
        self._log.flush()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 1000))
        return self._log.read().decode(errors="replace").strip()

    def close(self) -> None:
        """End the process, kindly at first."""
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def tried_out(address: Address) -> Address:
    """Ask for one vector; return the address with the encoding that the server turns out to know.

    Raises:
        ServerError: it answered with anything but a vector.
        OSError: it did not answer.
    """
    for fields in ({"encoding_format": "base64"}, {}):
        status, body = call(address, address.path, {"model": address.model, "input": ["a"], **fields})
        if status == OK and fields:
            (item,) = msgspec.json.decode(body)["data"]
            return msgspec.structs.replace(address, base64=isinstance(item["embedding"], str))
        if status == OK:
            return address
    raise ServerError(f"status {status}: {body[:300].decode(errors='replace')}")


def call(address: Address, path: str, fields: Mapping[str, object] | None = None) -> tuple[int, bytes]:
    """Send one request, a POST if there are fields; return status and body."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=ANSWER_S)
    try:
        if fields is None:
            connection.request("GET", path)
        else:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, msgspec.json.encode(fields), headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def stated(address: Address) -> tuple[str, str]:
    """Return what runs a gateway's only model, as it says itself: runtime and dtype."""
    _, body = call(address, "/v1/models")
    (model,) = msgspec.json.decode(body)["data"]
    return str(model["runtime"]), str(model["dtype"])


def address_of(url: str, model: str, pid: int | None) -> Address:
    """Return the address of an API that somebody else has started.

    Args:
        url: what stands before ``/embeddings``.
        model: the name to ask for.
        pid: the root of its processes, if it is known.

    Raises:
        ServerError: it does not answer with a vector, or cannot be asked.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ServerError(f"{url} is not of the form http://HOST:PORT/v1")
    path = f"{parts.path.rstrip('/')}/embeddings"
    try:
        port = parts.port or 80
        return tried_out(Address(host=parts.hostname, port=port, path=path, model=model, pid=pid))
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"{url} does not answer: {error}") from None


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
