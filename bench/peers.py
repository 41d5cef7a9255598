"""How servers are started, each as its users would, with the settings that suit it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench.machine import cores
from bench.server import Recipe

FOLDER = Path(__file__).with_name(".peers")
GATEWAY = (sys.executable, "-m", "embeddings_gateway.cli")
INFINITY = "v2 --device cpu --engine torch --no-bettertransformer"
LLAMA = "-m llama_cpp.server --embedding true --verbose false"
TUNED = "--n_ctx 512 --n_batch 512 --n_ubatch 512 --flash_attn true"
"""For llama-cpp-python's server, whose attention otherwise costs the square of a pack of 512 tokens.

Larger packs are slower, and an input that is longer than a pack would be cut.
"""
LISTEN = ("--host", "127.0.0.1", "--port", "{port}")
PRIVATE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


def gateway(
    folder: Path, model: str, keys: Mapping[str, str | int], command: Sequence[str] = GATEWAY
) -> Recipe:
    """Return how this project serves one model.

    Args:
        folder: a working directory without a ``gateway.toml``.
        model: the model's name.
        keys: of the model's table; without any the built-in default is served.
        command: what stands before ``serve``: this checkout's, or another one's.
    """
    arguments = ["serve", *LISTEN]
    if keys:
        path = folder / f"{model}.toml"
        lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in keys.items()]
        path.write_text("\n".join([f"[models.{model}]", *lines, ""]))
        arguments += ["--config", str(path)]
    return Recipe((*command, *arguments), "/v1", model, folder=str(folder))


def infinity(peers: Path, model: Path) -> Recipe:
    """Return how infinity is started, on torch, as its documentation says for processors."""
    command = (str(peers.absolute() / "infinity/bin/infinity_emb"), *shlex.split(INFINITY), *LISTEN)
    names = ("--model-id", str(model), "--served-model-name", "model")
    return Recipe((*command, *names), "", "model", settings=PRIVATE)


def llama_server(peers: Path, file: Path, settings: str = "") -> Recipe:
    """Return how llama-cpp-python's own server is started: its defaults, and as many threads as cores."""
    command = (str(peers.absolute() / "llama/bin/python"), *shlex.split(f"{LLAMA} {settings}"), *LISTEN)
    threads = ("--n_threads", str(cores()), "--n_threads_batch", str(cores()))
    return Recipe((*command, *threads, "--model", str(file), "--model_alias", "model"), "/v1", "model")
