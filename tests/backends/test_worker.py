"""The worker process, from its gateway's end of the socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.backends.fake import FakeBackend, fake_vector
from embeddings_gateway.backends.messages import (
    HEADER,
    Cancel,
    Check,
    Checked,
    Failed,
    PackedBatch,
    Ping,
    Pong,
    Ran,
    Ready,
    Refused,
    Run,
    Start,
    Tokenize,
    Tokens,
    decode_from_worker,
    encode_frame,
)
from embeddings_gateway.backends.spec import FakeSpec, FaultSpec
from embeddings_gateway.backends.worker import CHARS_AT_ONCE, TOKENIZER_THREADS
from tests.processes import SECONDS_MAX

SECRET = "words that nobody else may read"
FAULTS = FaultSpec(width=4)


class Peer:
    """A worker process and the gateway's end of its socket."""

    def __init__(self):
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(SECONDS_MAX)
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "embeddings_gateway.backends.worker",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )

    def ask(self, message):
        """Send a message and return the next answer."""
        self.socket.sendall(encode_frame(message))
        return self.receive()

    def receive(self):
        """Return the next message."""
        (length,) = HEADER.unpack(self._read(HEADER.size))
        return decode_from_worker(self._read(length))

    def _read(self, size):
        return self.socket.recv(size, socket.MSG_WAITALL)

    def ended(self):
        """Wait until the process ends by itself; return its exit status and what it said."""
        _, said = self.process.communicate(timeout=SECONDS_MAX)
        return self.process.returncode, said


@pytest.fixture
def start():
    """Return a function that starts a worker and lets it load the fake backend."""
    peers = []

    def started(spec=None):
        peers.append(Peer())
        peers[-1].first = peers[-1].ask(Start(spec or FakeSpec(width=4)))
        return peers[-1]

    yield started
    for peer in peers:
        peer.process.kill()
        peer.process.communicate()
        peer.socket.close()


def run(call_id, text):
    """Return a call that computes the vector of a text."""
    batch = Batch.of([np.array([256, *text.encode(), 257], np.int32)])
    return Run(call_id, ("dense",), PackedBatch.of(batch))


def test_answers(start):
    """A worker states its facts, tokenizes, computes and answers pings, each by the id of its call."""
    peer = start()
    assert isinstance(peer.first, Ready)
    assert peer.first.info.dimensions == 4
    tokens = peer.ask(Tokenize(11, ["ab", "ü"]))
    assert isinstance(tokens, Tokens)
    ids = [ids.tolist() for ids in tokens.batch.unpack().split()]
    assert (tokens.id, ids) == (11, [[256, 97, 98, 257], [256, 195, 188, 257]])
    ran = peer.ask(Run(12, ("dense",), tokens.batch))
    assert isinstance(ran, Ran)
    assert ran.id == 12
    expected = [fake_vector(ids, 4) for ids in tokens.batch.unpack().split()]
    np.testing.assert_array_equal(ran.unpack()["dense"].values, expected)
    pong = peer.ask(Ping(13))
    assert isinstance(pong, Pong)
    assert pong.id == 13


def test_several_outputs(start):
    """A worker computes several outputs of pairs in one call."""
    spec = FakeSpec(width=4, outputs=("dense", "sparse", "multi_vector", "score"), labels=3)
    peer = start(spec=spec)
    tokens = peer.ask(Tokenize(1, ["ab", "c"], ["d", ""]))
    ran = peer.ask(Run(2, ("sparse", "score"), tokens.batch)).unpack()
    batch = FakeBackend(spec).tokenize(["ab", "c"], ["d", ""])
    np.testing.assert_array_equal(tokens.batch.unpack().segments, batch.segments)
    expected = FakeBackend(spec).run(batch, ("sparse", "score"))
    assert ran.keys() == expected.keys()
    for output, column in expected.items():
        for name in ("values", "offsets", "indices"):
            np.testing.assert_array_equal(getattr(ran[output], name), getattr(column, name))


def test_refusal(start):
    """A worker whose model cannot be served says why, and ends."""
    peer = start(spec=FakeSpec(width=4, dimensions=(16,)))
    assert isinstance(peer.first, Refused)
    assert "16" in peer.first.reason
    assert peer.ended() == (0, "")


def test_raising_backend(start):
    """A backend that raises fails that call alone, and no text of a user appears anywhere."""
    peer = start(spec=FAULTS)
    assert peer.ask(run(1, f"{SECRET}<raise>")) == Failed(1, "RuntimeError")
    assert peer.ask(Tokenize(2, [f"{SECRET}<tokenizer-raise>"])) == Failed(2, "RuntimeError")
    assert isinstance(peer.ask(Ping(3)), Pong)
    peer.socket.close()
    status, said = peer.ended()
    assert status == 0
    assert "RuntimeError" in said
    assert SECRET not in said


def test_declined_texts(start):
    """A text that the tokenizer declines has a reason, which never contains a text, and the others have their ids."""
    peer = start(spec=FAULTS)
    tokens = peer.ask(Tokenize(1, ["ab", "<tokenizer-decline>", "c"]))
    assert tokens.declined == {1: "the engine declines this"}
    assert tokens.batch.unpack().lengths.tolist() == [4, 0, 3]


def test_cancelled_before_it_begins(start):
    """A tokenizer call that is cancelled while others are before it is never begun; one that runs goes on."""
    peer = start(spec=FAULTS)
    long = "x" * CHARS_AT_ONCE
    for call_id in range(TOKENIZER_THREADS):
        peer.socket.sendall(encode_frame(Tokenize(call_id, [f"<tokenizer-hang>{long}"])))
    peer.socket.sendall(encode_frame(Tokenize(8, [f"<tokenizer-abort>{long}"])))
    peer.socket.sendall(encode_frame(Cancel(0)))
    assert peer.ask(Cancel(8)) == Failed(8, "cancelled")
    assert peer.ask(Ping(9)) == Pong(9, 0.0)


def test_out_of_memory(start):
    """A lack of memory for a batch is reported as such: a smaller batch may succeed."""
    peer = start(spec=FAULTS)
    assert peer.ask(run(1, "<memory>")) == Failed(1, "MemoryError", memory=True)
    assert isinstance(peer.ask(run(2, "a")), Ran)


def test_self_test(start):
    """A worker whose model fails its self-test refuses it; a good one passes it again when it is asked to."""
    assert start().ask(Check(1)) == Checked(1, "")
    wrong = start(spec=FaultSpec(width=4, loading="wrong"))
    assert isinstance(wrong.first, Refused)
    assert "in a batch" in wrong.first.reason


def test_alive_while_it_computes(start):
    """Pings and texts are answered while a batch is computed, and a ping says how long it has been."""
    peer = start(spec=FAULTS)
    peer.socket.sendall(encode_frame(run(1, "<hang>")))
    while (pong := peer.ask(Ping(2))).busy_seconds == 0:
        pass
    assert isinstance(pong, Pong)
    assert isinstance(peer.ask(Tokenize(3, ["a"])), Tokens)


@pytest.mark.parametrize("computing", [False, True], ids=["idle", "computing"])
def test_gateway_gone(start, computing):
    """A worker ends when its gateway's end of the socket closes, even in the midst of a batch."""
    peer = start(spec=FAULTS)
    if computing:
        peer.socket.sendall(encode_frame(run(1, "<hang>")))
    peer.socket.close()
    assert peer.ended()[0] == 0


def test_gateway_gone_without_reading(start):
    """A worker ends as well when the gateway goes without having read its answers."""
    peer = start()
    peer.socket.sendall(encode_frame(Ping(1)) * 3)
    peer.socket.recv(1, socket.MSG_PEEK)
    peer.socket.close()
    status, said = peer.ended()
    assert status in (0, 1)
    assert "backends/fake" not in said


@pytest.mark.parametrize(
    "frame",
    [
        HEADER.pack(3) + b"\xc1\xc1\xc1",
        HEADER.pack(2**32 - 1),
        encode_frame(Start(FakeSpec()))[:-1] + b"\xff",
    ],
    ids=["no message", "too large", "bent"],
)
def test_hostile_frame(start, frame):
    """A worker ends on a frame that no gateway sends."""
    peer = start()
    peer.socket.sendall(frame)
    status, said = peer.ended()
    assert status == 1
    assert "ProtocolError" in said


def test_gateway_gone_before_the_start():
    """A worker ends if the gateway is gone before it sends a model."""
    peer = Peer()
    peer.socket.close()
    assert peer.ended()[0] == 0


def test_gateway_gone_while_it_loads():
    """A worker that loads a model ends when its gateway is gone, and does not wait for the model."""
    peer = Peer()
    peer.socket.sendall(encode_frame(Start(FaultSpec(load_seconds=10 * SECONDS_MAX))))
    peer.socket.close()
    assert peer.ended()[0] == 0


def test_interrupt(start):
    """Ctrl-C is the gateway's to handle: the worker goes on."""
    peer = start()
    peer.process.send_signal(signal.SIGINT)
    assert peer.ask(Ping(1)) == Pong(1, 0.0)


def test_no_core_file(start):
    """A worker that crashes leaves no core file, which would hold users' texts."""
    limits = Path(f"/proc/{start().process.pid}/limits").read_text()
    (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core[4:6] == ["1", "1"]
