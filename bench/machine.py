"""What machine this is, and which versions are compared."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from bench.results import Machine
from embeddings_gateway.workers.local.cores import usable

PACKAGES = (
    *("embeddings-gateway", "torch", "transformers", "sentence-transformers", "openvino", "llama-cpp-python"),
    *("numpy", "httptools", "uvloop"),
)
FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("avx_vnni", "amx_bf16", "amx_int8", "bf16"),
)
"""What decides how fast a processor multiplies."""


def machine(peers: Path) -> Machine:
    """Look at this machine."""
    told = processor()
    return Machine(
        processor=told.get("model name") or platform.processor() or platform.machine(),
        cores=cores(),
        memory_gb=psutil.virtual_memory().total / 1e9,
        flags=tuple(
            flag for flag in FLAGS if flag in (told.get("flags") or told.get("Features", "")).split()
        ),
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        load_before=os.getloadavg()[0],
        versions=versions() | peer_versions(peers),
    )


def processor() -> dict[str, str]:
    """Return what Linux says of the first processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().partition("\n\n")[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def cores() -> int:
    """Return how many cores this process may keep busy."""
    return usable().total


def commit() -> str:
    """Return which state of this project is measured; empty where git does not tell."""
    name = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--", "gateway", "backends")
    return f"{name} with changes" if name and changed else name


def git(*arguments: str) -> str:
    """Return what git says of this project; nothing where it cannot."""
    folder = Path(__file__).parents[1]
    try:
        told = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False, text=True)
    except OSError:
        return ""
    return told.stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of what is installed beside us."""
    told = {}
    for package in PACKAGES:
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            continue
    return told


def peer_versions(peers: Path) -> dict[str, str]:
    """Return the versions in the peers' own environments."""
    wanted = {"infinity": ("infinity_emb", "torch", "transformers"), "llama": ("llama_cpp_python",)}
    told = {}
    for peer, packages in wanted.items():
        for package in packages:
            for path in sorted((peers / peer).glob(f"lib/python*/site-packages/{package}-*.dist-info")):
                told[f"{peer}: {package}"] = path.name.removeprefix(f"{package}-").removesuffix(".dist-info")
    return told
