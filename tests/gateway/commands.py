"""The command line, run as people run it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.processes import SECONDS_MAX

# Ctrl-C is what it is on a terminal, also where the tests run in the background of a shell, which ignores it.
HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
PROGRAM = (sys.executable, "-c", f"{HEED}; from embeddings_gateway.cli import main; main()")
SETTINGS = {"NO_COLOR": "1", "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of a command, without a configuration that happens to be set."""
    kept = {key: value for key, value in os.environ.items() if key != "EMBEDDINGS_GATEWAY_CONFIG"}
    return kept | SETTINGS | settings


def run(*arguments: str | Path | bytes, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=cwd,
        input=stdin,
        env=environment(),
        capture_output=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def begin(*arguments: str | Path, cwd: Path, **settings: str) -> subprocess.Popen[str]:
    """Start a command, and leave it running."""
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=cwd,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused(ended: subprocess.CompletedProcess[bytes]) -> str:
    """Return why a command failed, after checking that it said so properly."""
    said = ended.stderr.decode()
    assert ended.returncode == 1, said
    assert said.startswith("error: "), said
    assert "Traceback" not in said
    assert ended.stdout == b""
    return said.removeprefix("error: ").strip()


def is_ready(port: int) -> bool:
    """Return whether a gateway on this machine is ready."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False
