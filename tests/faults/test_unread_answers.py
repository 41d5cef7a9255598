"""Answers that nobody reads take no more memory than is allowed, and no room from small requests."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import httpx
import pytest

from tests.connection import START, Connection, sized
from tests.server import serving

MAX_BYTES = 256 << 20
CONFIG = f"""
[server]
max_buffered_bytes = {MAX_BYTES}
send_timeout_s = 60
[models.fake]
backend = "fake"
width = 1024
"""
CLIENTS = 40
LARGE = json.dumps({"model": "fake", "input": ["a"] * 2048}).encode()
ENCODING_PART = 4
"""Beside what is counted, vectors and what is being encoded may take 1 / n as much."""


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10


@pytest.mark.full_size
def test_unread_answers(tmp_path, tell):
    """Forty small requests for large answers that nobody reads stay within the bound, and small ones are served."""
    with serving(tmp_path, CONFIG) as server, contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
        assert client.post("/v1/embeddings", json={"model": "fake", "input": ["a"] * 2048}).status_code == 200
        before = peak_bytes(server.pid)
        for _ in range(CLIENTS):
            unread = stack.enter_context(Connection(server.url, buffer_bytes=4096))
            unread.send(START + sized(LARGE))
        for _ in range(200):
            assert client.post("/v1/embeddings", json={"model": "fake", "input": "small"}).status_code == 200
        grown = peak_bytes(server.pid) - before
        tell(grown_mb=grown / 1e6)
        assert grown <= MAX_BYTES + MAX_BYTES // ENCODING_PART
