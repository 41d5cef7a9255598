"""A gateway as its users run it: the command in a process of its own, on a port that is free."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PYTHON = os.environ.get("EMBEDDINGS_GATEWAY_PYTHON", sys.executable)
"""With the gateway and its models; clients are tested in an environment of their own."""

COMMAND = (PYTHON, "-m", "embeddings_gateway.cli")
WAIT_S = 120


class Server(NamedTuple):
    """A running gateway.

    Attributes:
        url: without a path.
        pid: of the gateway's process.
        log: what it writes to its standard error.
        process: the gateway's process, to end it and to ask how it ended.
    """

    url: str
    pid: int
    log: Path
    process: subprocess.Popen[str]

    def worker(self, index: int = 0) -> int:
        """Return the process id of a worker, in the order in which they were started."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[index])


@contextlib.contextmanager
def serving(
    folder: Path, config: str, *, ready: bool = True, settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Serve ``config`` until the block ends; with ``ready`` the block begins when the models are loaded.

    Args:
        settings: of its environment, beside those of this process.
    """
    path, log = folder / "gateway.toml", folder / "server.log"
    path.write_text(config)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(settings or {})}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--config", str(path), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )
    try:
        url = _announced(process, log, r"Serving on (\S+)/v1" if ready else r"Listening on (\S+)\.")
        yield Server(url, process.pid, log, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=WAIT_S)
        finally:
            process.kill()  # one that does not end is a failure, and is not left to the tests that follow


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fail if it does not for a long time."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def _announced(process: subprocess.Popen[str], log: Path, pattern: str) -> str:
    """Return the address that the server prints."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"the server ended with {process.wait()}: {log.read_text()}")
