"""A gateway that tells how long it held its event loop: a program for tests, and what starts it.

It counts the processor time of each callback, which other processes do not lengthen as they do wall time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from embeddings_gateway import log
from embeddings_gateway.cli.serve import run
from embeddings_gateway.config_file import read_config

WAIT_S = 120


class HeldServer(NamedTuple):
    """A running gateway.

    Attributes:
        url: without a path.
        pid: of its process.
        longest_ms: returns the processor time of the longest callback since the last call.
    """

    url: str
    pid: int
    longest_ms: Callable[[], float]


@contextlib.contextmanager
def serving_held(folder: Path, config: str) -> Iterator[HeldServer]:
    """Serve ``config`` until the block ends, which begins when the models are loaded."""
    path = folder / "gateway.toml"
    path.write_text(config)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.held", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "server.log").open("wb"),
        text=True,
        bufsize=1,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    to_process, lines = process.stdin, process.stdout

    def longest_ms() -> float:
        to_process.write("\n")
        return float(next(line for line in lines if line.startswith("longest")).split()[1])

    try:
        url = next(found[1] for line in lines if (found := re.search(r"Serving on (\S+)/v1", line)))
        longest_ms()
        yield HeldServer(url, process.pid, longest_ms)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=WAIT_S)
        finally:
            process.kill()


class Meter:
    """Counts the processor time of callbacks."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._run = asyncio.Handle._run

    def install(self) -> None:
        """Count from now on."""
        meter = self

        def counted(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            meter._run(handle)
            meter.longest_s = max(meter.longest_s, time.thread_time() - began)

        asyncio.Handle._run = counted  # type: ignore[method-assign]

    def report(self) -> None:
        """Print the longest time since the last report, for each line of the standard input."""
        for _ in sys.stdin:
            longest_s, self.longest_s = self.longest_s, 0.0
            print(f"longest {1000 * longest_s:.3f}", flush=True)  # noqa: T201 - the test reads it


def main() -> None:
    """Serve the configuration that the first argument names."""
    config = read_config(Path(sys.argv[1]))
    log.configure("json", "warning")
    meter = Meter()
    meter.install()
    threading.Thread(target=meter.report, daemon=True).start()
    with asyncio.Runner() as runner:  # asyncio's own loop: uvloop's callbacks cannot be counted
        runner.run(run(config))


if __name__ == "__main__":
    main()
