"""How the servers that are compared are started, each as its users would, with the settings that suit it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench.machine import cores
from bench.server import Recipe

FOLDER = Path(__file__).with_name(".peers")
LLAMA, LLAMA_TUNED = "llama-cpp-python", "llama-cpp-python, tuned"
GET = "not measured: its environment is not built; make bench-peers builds it"


class Missing(Exception):
    """A peer's environment has not been built."""


def gateway(folder: Path, model: str, keys: Mapping[str, str | int] | None = None) -> Recipe:
    """Return how this project serves the built-in default, or one model.

    Args:
        folder: a working directory without a ``gateway.toml``.
        model: the model's name.
        keys: of the model's table; without any the default is served.
    """
    command = [str(Path(sys.executable).with_name("embeddings-gateway")), "serve", "--port", "{port}"]
    if keys is not None:
        path = folder / f"{model}.toml"
        lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in keys.items()]
        path.write_text("\n".join([f"[models.{model}]", *lines, ""]))
        command += ["--config", str(path)]
    return Recipe(command=tuple(command), base="/v1", model=model, folder=str(folder))


def infinity(peers: Path, model: Path) -> Recipe:
    """Return how infinity is started, on torch, as its documentation says for processors.

    Raises:
        Missing: it has not been installed.
    """
    return Recipe(
        command=(
            str(found(peers / "infinity/bin/infinity_emb")),
            *("v2", "--model-id", str(model), "--served-model-name", "model", "--device", "cpu"),
            *("--engine", "torch", "--no-bettertransformer", "--host", "127.0.0.1", "--port", "{port}"),
        ),
        base="",
        model="model",
        environment={"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
    )


TUNED = ("--n_ctx", "512", "--n_batch", "512", "--n_ubatch", "512", "--flash_attn", "true")
"""For llama-cpp-python's server, whose attention otherwise costs the square of a pack of 512 tokens.

Larger packs are slower, and an input that is longer than a pack would be cut.
"""


def llama_server(peers: Path, file: Path, settings: Sequence[str] = ()) -> Recipe:
    """Return how llama-cpp-python's own server is started: its defaults, but for as many threads as cores.

    Raises:
        Missing: it has not been installed.
    """
    threads = str(cores())
    return Recipe(
        command=(
            str(found(peers / "llama/bin/python")),
            *(
                "-m",
                "llama_cpp.server",
                "--model",
                str(file),
                "--model_alias",
                "model",
                "--embedding",
                "true",
            ),
            *settings,
            *("--n_threads", threads, "--n_threads_batch", threads, "--verbose", "false"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        base="/v1",
        model="model",
    )


def found(path: Path) -> Path:
    """Return an absolute path without resolving links, for an environment's python is one.

    Raises:
        Missing: there is nothing.
    """
    if not path.exists():
        raise Missing(GET)
    return path.absolute()
