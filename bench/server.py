"""Servers that are measured over HTTP: how each is started, asked for a vector and ended."""

from __future__ import annotations

import http.client
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from bench.run_spec import Endpoint, RunError
from embeddings_gateway.workers.local.cores import usable

START_S = 900.0  # a first start may convert a large model
END_S = 30.0
LOOK_S = 0.02
ANSWER_S = 60.0
OK = 200
PEERS = Path(__file__).with_name(".peers")
GATEWAY = (sys.executable, "-m", "embeddings_gateway.cli")
INFINITY = "v2 --device cpu --engine torch --no-bettertransformer"
LLAMA = "-m llama_cpp.server --embedding true --verbose false"
TUNED = "--n_ctx 512 --n_batch 512 --n_ubatch 512 --flash_attn true"
"""For llama-cpp-python's server, whose attention otherwise costs the square of a pack of 512 tokens.

Larger packs are slower, and an input that is longer than a pack would be cut.
"""
LISTEN = ("--host", "127.0.0.1", "--port", "{port}")
PRIVATE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


class Recipe(NamedTuple):
    """How a server is started."""

    command: tuple[str, ...]  # {port} stands for the port, {config} for the file with the configuration
    base: str  # what goes before /embeddings in its paths
    model: str  # the name to ask for
    settings: Mapping[str, str] = {}  # of its environment, over ours
    config: str = ""


class Server:
    """A server in a process and a working directory that belong to this object, with its ``pid``."""

    def __init__(self, recipe: Recipe) -> None:
        """Start the process; it answers after :meth:`ready`. Raises RunError if its command is missing."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self._url, self._model = f"http://127.0.0.1:{port}{recipe.base}/embeddings", recipe.model
        self._folder = tempfile.TemporaryDirectory()
        config, self._log = (Path(self._folder.name) / name for name in ("config.toml", "log"))
        config.write_text(recipe.config)
        words = {"{port}": str(port), "{config}": str(config)}
        with self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [words.get(part, part) for part in recipe.command],
                    cwd=self._folder.name,
                    env={**os.environ, **recipe.settings},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise RunError(f"there is no {recipe.command[0]}: make bench-peers installs peers") from None
        self.pid = self._process.pid

    def ready(self) -> Endpoint:
        """Wait for the first vector; raises RunError if none comes."""
        end, reason = time.monotonic() + START_S, ""
        while time.monotonic() < end:
            if self._process.poll() is not None:
                output = self._log.read_text(errors="replace").strip()
                raise RunError(f"ended with status {self._process.returncode}: {output[-1000:]}")
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
        self._folder.cleanup()


def find_endpoint(url: str, model: str, pid: int | None) -> Endpoint:
    """Ask for one vector, to learn whether the server knows base64; raises RunError if none comes."""
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


def gateway(model: str, keys: Mapping[str, str | int], command: Sequence[str] = GATEWAY) -> Recipe:
    """Return how a checkout, by its command, serves a model with these keys, or the default without."""
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in keys.items()]
    arguments = ("serve", *LISTEN, *(("--config", "{config}") if keys else ()))
    config = "\n".join([f"[models.{model}]", *lines])
    return Recipe((*command, *arguments), "/v1", model, config=config)


def infinity(peers: Path, model: Path) -> Recipe:
    """Return how infinity is started, on torch, as its documentation says for processors."""
    command = (str(peers.absolute() / "infinity/bin/infinity_emb"), *shlex.split(INFINITY), *LISTEN)
    names = ("--model-id", str(model), "--served-model-name", "model")
    return Recipe((*command, *names), "", "model", settings=PRIVATE)


def llama_server(peers: Path, file: Path, settings: str = "") -> Recipe:
    """Return how llama-cpp-python's own server is started: its defaults, and as many threads as cores."""
    command = (str(peers.absolute() / "llama/bin/python"), *shlex.split(f"{LLAMA} {settings}"), *LISTEN)
    threads = ("--n_threads", str(usable().total), "--n_threads_batch", str(usable().total))
    return Recipe((*command, *threads, "--model", str(file), "--model_alias", "model"), "/v1", "model")
