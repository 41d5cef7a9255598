"""The machine that is measured on, and the versions that are compared."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from embeddings_gateway.workers.local.cores import usable

PACKAGES = (
    *("embeddings-gateway", "torch", "transformers", "sentence-transformers", "openvino", "llama-cpp-python"),
    *("numpy", "httptools", "uvloop"),
)
PEER_PACKAGES = {"infinity": ("infinity_emb", "torch", "transformers"), "llama": ("llama_cpp_python",)}
FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("avx_vnni", "amx_bf16", "amx_int8", "bf16"),
)
"""What decides how fast a processor multiplies."""


def describe_machine(peers: Path) -> dict[str, str]:
    """Return the machine and the versions on it, as rows of a table."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().partition("\n\n")[0].splitlines() if cpuinfo.exists() else []
    processor = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = processor.get("model name") or platform.processor() or platform.machine()
    flags = (processor.get("flags") or processor.get("Features", "")).split()
    return {
        "processor": f"{name}, {cores()} cores",
        "flags": " ".join(flag for flag in FLAGS if flag in flags),
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        **dict(_versions(peers)),
    }


def cores() -> int:
    """Return how many cores this process may keep busy."""
    return usable().total


def commit() -> str:
    """Return the state of this project that is measured; empty where git does not tell."""
    name = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "gateway", "backends")
    return f"{name} with changes" if name and changed else name


def _git(*arguments: str) -> str:
    folder = Path(__file__).parents[1]
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def _versions(peers: Path) -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
    for peer, packages in PEER_PACKAGES.items():
        for package in packages:
            for path in sorted((peers / peer).glob(f"lib/python*/site-packages/{package}-*.dist-info")):
                yield f"{peer}: {package}", path.stem.removeprefix(f"{package}-")
