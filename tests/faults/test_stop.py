"""A stopping gateway finishes accepted requests and refuses new ones; a second signal ends it at once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from tests.connection import SMALL, START, Connection, sized
from tests.processes import Watch
from tests.server import eventually, serving

CONFIG = '[server]\nshutdown_timeout_s = {seconds}\n[models.fake]\nbackend = "fake"\n'
LOADING = '[models.fault]\nbackend = "fault"\nloading = "hang"\n'
ONE = START + sized(SMALL)
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])


class Busy:
    """A gateway with a request that it has accepted, and that its worker does not answer.

    Attributes:
        server: the gateway.
        accepted: a connection that waits for its answer.
    """

    def __init__(self, server, sent):
        self.server = server
        self.worker = server.worker()
        self._watch = Watch(self.worker)
        os.kill(self.worker, signal.SIGSTOP)
        self.accepted = Connection(server.url)
        self.accepted.send(sent)
        httpx.get(f"{server.url}/livez")  # when it has answered this, it has read that

    def stop(self, number=signal.SIGTERM):
        """Tell it to stop, and wait until it has heard."""
        self.server.process.send_signal(number)
        eventually(lambda: "stopping" in httpx.get(f"{self.server.url}/readyz", timeout=60).text)

    def go_on(self):
        """Let the worker answer."""
        os.kill(self.worker, signal.SIGCONT)

    def status(self):
        """Return the exit status, after checking that no worker is left."""
        status = self.server.process.wait()
        assert self._watch.ended()
        return status


@pytest.fixture
def begin(tmp_path):
    """Return a function that starts a gateway and asks something of it."""
    with contextlib.ExitStack() as stack:

        def busy(sent=ONE, seconds=600):
            server = stack.enter_context(serving(tmp_path, CONFIG.format(seconds=seconds)))
            stack.callback(server.process.kill)
            one = Busy(server, sent)
            stack.callback(one.accepted.close)
            return one

        yield busy


def assert_refused(connection):
    """Check that a request is refused because the gateway stops, and that its connection ends."""
    received, headers, body = connection.receive()
    error = json.loads(body)["error"]
    assert (received, error["code"], error["type"]) == (503, "model_unavailable", "server_error")
    assert int(headers["retry-after"]) >= 1
    assert headers["connection"] == "close"
    assert connection.ended()


def assert_vectors(connection):
    """Check a success; return the headers."""
    received, headers, body = connection.receive()
    assert received == 200
    assert len(json.loads(body)["data"]) == 1
    return headers


@SIGNALS
def test_what_was_accepted_is_finished(begin, number):
    """Accepted requests are answered, new ones get 503 meanwhile, and the exit status is 0."""
    busy = begin()
    with Connection(busy.server.url) as kept:
        kept.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert kept.receive()[0] == 200
        busy.stop(number)
        ready = httpx.get(f"{busy.server.url}/readyz")
        assert ready.status_code == 503
        assert ready.json()["models"]["fake"]["reason"] == "the gateway is stopping"
        kept.send(ONE)
        assert_refused(kept)
        with Connection(busy.server.url) as new:
            new.send(ONE)
            assert_refused(new)
    busy.go_on()
    assert assert_vectors(busy.accepted)["connection"] == "close"
    assert busy.accepted.ended()
    assert busy.status() == 0


def test_a_body_that_is_being_received(begin):
    """A request that is incomplete when the gateway begins to stop is refused at once."""
    busy = begin()
    with Connection(busy.server.url) as half:
        half.send(ONE[:-1])
        httpx.get(f"{busy.server.url}/livez")
        busy.stop()
        assert_refused(half)
    busy.go_on()
    assert_vectors(busy.accepted)
    assert busy.status() == 0


def test_requests_in_a_row(begin):
    """A request that waits behind another is refused after the other's response, on the same connection."""
    busy = begin(ONE * 2)
    busy.stop()
    busy.go_on()
    assert "connection" not in assert_vectors(busy.accepted)
    assert_refused(busy.accepted)
    assert busy.status() == 0


@SIGNALS
def test_second_signal(begin, number):
    """The second signal ends it at once, with status 1; requests in progress get an error."""
    busy = begin()
    busy.stop()
    busy.server.process.send_signal(number)
    assert_refused(busy.accepted)
    assert busy.status() == 1


def test_the_grace_is_over(begin):
    """What cannot be finished in time is refused in the end, and the status is 0."""
    busy = begin(seconds=1)
    busy.server.process.send_signal(signal.SIGTERM)
    assert_refused(busy.accepted)
    assert busy.status() == 0


def test_nothing_to_finish(begin):
    """A gateway that has nothing to do ends, also with open connections."""
    busy = begin(b"")
    busy.server.process.send_signal(signal.SIGTERM)
    assert busy.accepted.ended()
    assert busy.status() == 0


@SIGNALS
def test_told_again_while_its_workers_end(tmp_path, number):
    """A signal that comes when nothing is left but to end the workers does not kill the gateway before them."""
    with serving(tmp_path, LOADING, ready=False) as server:
        eventually(lambda: Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text() != "")
        worker = Watch(server.worker())
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: not listens(server.url))
        server.process.send_signal(number)
        assert server.process.wait() in (0, 1)
        assert worker.ended()


def listens(url):
    """Tell whether somebody listens there."""
    try:
        Connection(url).close()
    except ConnectionRefusedError:
        return False
    return True


def test_core_files(begin):
    """Linux writes no core file of it, nor hands one to a program."""
    limits = Path(f"/proc/{begin().server.pid}/limits").read_text()
    assert re.search(r"Max core file size +(0|1) +(0|1) ", limits)
