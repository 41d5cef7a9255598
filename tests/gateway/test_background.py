"""Output in the background: a reader that stalls holds up nobody."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

from embeddings_gateway import log
from embeddings_gateway.background import Background
from tests.gateway.commands import PROGRAM, environment, is_ready
from tests.processes import SECONDS_MAX
from tests.server import eventually


class Reader:
    """A reader that stalls until it is told to go on; then all that was written is in ``read``."""

    def __init__(self):
        self.read = []
        self.goes_on = threading.Event()

    def write(self, items):
        """Take items, once it is told to."""
        self.goes_on.wait()
        self.read += items


def test_a_full_queue_drops_what_comes_and_counts_it():
    """While nothing is written a queue takes what it has room for; the next item says how many it dropped."""
    reader = Reader()
    output = Background(reader.write, len, lambda dropped: f"-{dropped}", max_chars=4)
    for item in ("aa", "bb", "c", "d"):
        output.put(item)
    assert not output.flush(0)
    reader.goes_on.set()
    assert output.flush(SECONDS_MAX)
    output.put("e")
    assert output.flush(SECONDS_MAX)
    assert reader.read == ["aa", "bb", "-2", "e"]


def test_what_cannot_be_written_is_lost_alone():
    """A failure loses the items that were to be written, and not those after them."""
    read = []

    def write(items):
        if "bad" in items:
            raise OSError("the disk is full")
        read.extend(items)

    output = Background(write, len, str)
    for item in ("bad", "good"):
        output.put(item)
        assert output.flush(SECONDS_MAX)
    assert read == ["good"]


def test_repeated_warnings_are_limited():
    """Of warnings of one kind only so many are logged in an interval; the first of the next says how many were not."""
    limit = log.RateLimit()
    counts = [limit.count("refused", 0.0) for _ in range(log.MAX_REPEATED + 3)]
    assert counts == [0] * log.MAX_REPEATED + [None] * 3
    assert limit.count("another", 0.0) == 0
    assert limit.count("refused", log.INTERVAL_S) == 3
    assert limit.count("refused", log.INTERVAL_S) == 0


def full_pipe():
    """Return the ends of a pipe that has no room left."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(1 << 12))
    os.set_blocking(writing, True)
    return reading, writing


def free_port():
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_gateway_whose_output_nobody_reads(tmp_path):
    """It answers, and ends when it is asked to, though its standard output and error are a full pipe."""
    config, port = tmp_path / "gateway.toml", free_port()
    config.write_text('[models.m]\nbackend = "fake"\n')
    reading, writing = full_pipe()
    command = [*PROGRAM, "serve", "--config", config, "--port", str(port)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, env=environment()
    )
    try:
        eventually(lambda: is_ready(port))
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port)) as malformed:
                malformed.sendall(b"nothing like HTTP\r\n\r\n")
                assert malformed.recv(4096).startswith(b"HTTP/1.1 400")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS_MAX) == 0
    finally:
        process.kill()
        os.close(writing)
        os.close(reading)


STALLED_APPLICATION = """
import logging, sys, threading
from embeddings_gateway import Embedder

class Stalled(logging.Handler):
    def handle(self, record):  # not under the lock that the interpreter's end waits for
        threading.Event().wait()

logging.basicConfig(level="INFO", handlers=[Stalled()])
with Embedder({"models": {"m": {"backend": "fake"}}}) as embedder:
    print(len(embedder.embed(["a"]).vectors))
"""


def test_an_application_whose_log_stalls():
    """In an application whose logging waits for ever, texts are embedded, and the process ends."""
    ended = subprocess.run(
        [sys.executable, "-c", STALLED_APPLICATION],
        env=environment(),
        stdout=subprocess.PIPE,
        timeout=SECONDS_MAX,
        check=True,
    )
    assert ended.stdout == b"1\n"


FLOODING = """
import sys
from embeddings_gateway import background, log

background.write_standard_streams_in_background()
log.configure("json", "info")
logger = log.get_logger()
for number in range(6000):
    logger.info("flood", padding="x" * 1024)
print("flooded")
sys.stdin.readline()
sys.stderr.buffer.output.flush(60)
log.get_logger().error("after the flood")
"""


def test_the_log_says_how_many_lines_it_lost():
    """When a log that nobody read is read again, all its lines are whole, and one says how many were dropped."""
    with subprocess.Popen(
        [sys.executable, "-c", FLOODING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as process:
        assert process.stdout.readline() == "flooded\n"
        _, errors = process.communicate("\n", timeout=SECONDS_MAX)
    lines = [json.loads(line) for line in errors.splitlines()]
    events = [line["event"] for line in lines]
    (dropped,) = [line for line in lines if line["event"] == "lines dropped"]
    assert events[-2:] == ["lines dropped", "after the flood"]
    assert events.count("flood") + dropped["lines"] == 6000
    assert dropped["level"] == "warning"
