"""A warm start: from the command to the first vector over HTTP, all files being in the system's cache."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench import peers
from bench.compare import Say
from bench.options import Options
from bench.results import WarmStart
from bench.server import Server
from embeddings_gateway.config_file import read_config

STARTS, QUICK_STARTS = 5, 2


def start(options: Options, say: Say) -> WarmStart:
    """Start the default configuration again and again; the first start, which fills caches, does not count.

    Raises:
        ServerError: it does not start.
    """
    name = next(iter(read_config(None).models))
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = peers.gateway(Path(folder), name)
        for number in range(1 + (QUICK_STARTS if options.quick else STARTS)):
            began = time.perf_counter()
            server = Server(recipe)
            try:
                server.ready()
                seconds.append(time.perf_counter() - began)
            finally:
                server.close()
            say(f"start {number}: {seconds[-1]:.2f} s")
    return WarmStart(options.settings, seconds[1:])
