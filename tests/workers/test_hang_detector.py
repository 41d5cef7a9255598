"""When a worker counts as hung, and which of its calls may be the cause."""

from __future__ import annotations

import pytest

from embeddings_gateway.backends.messages import Check, PackedBatch, Ping, Run, Tokenize
from embeddings_gateway.workers.local.hang_detector import HangDetector, WorkerTimeouts


def run(call_id):
    """Return a batch."""
    return Run(call_id, ("dense",), PackedBatch(b"", b""))


def intervals_until_hung(detector, answering=False):
    """Return how many intervals pass until the worker counts as hung."""
    for count in range(1, 1000):
        if answering:
            detector.end(999)
        if detector.poll():
            return count
    return None


def test_silence():
    """A process without any reply is hung after ten seconds, or after its timeout if that is less."""
    assert intervals_until_hung(HangDetector(WorkerTimeouts(hang_s=30))) == 11
    short = HangDetector(WorkerTimeouts(hang_s=2))
    assert short.interval_s == pytest.approx(0.2)
    assert intervals_until_hung(short) == 11


def test_idle():
    """A process that answers its pings and has nothing to do is never hung."""
    detector = HangDetector(WorkerTimeouts())
    detector.begin(Ping(1), 0)
    assert intervals_until_hung(detector, answering=True) is None
    assert detector.suspects() == set()


@pytest.mark.parametrize("call", [run(1), Check(1), Tokenize(1, ["a"])], ids=["batch", "check", "texts"])
def test_call_that_takes_too_long(call):
    """A call that takes too long is hung, although pings are answered."""
    detector = HangDetector(WorkerTimeouts())
    detector.begin(call, 20)
    assert intervals_until_hung(detector, answering=True) == 21
    assert detector.suspects() == {1}


def test_suspects():
    """If a batch hangs, only that batch is a suspect; if a tokenizer call hangs, all are: they wait for one another."""
    for overdue, suspects in ((run(1), {1}), (Tokenize(1, ["a"]), {0, 1})):
        detector = HangDetector(WorkerTimeouts())
        detector.begin(Tokenize(0, ["a"]), 1000)
        detector.begin(overdue, 20)
        intervals_until_hung(detector, answering=True)
        assert detector.suspects() == suspects


def test_second_batch():
    """A batch that waits behind another cannot time out, and is no suspect."""
    detector = HangDetector(WorkerTimeouts())
    detector.begin(run(1), 20)
    detector.begin(run(2), 20)
    assert [detector.poll() for _ in range(9)] == [""] * 9
    assert detector.suspects() == {1}
    detector.end(1)
    assert detector.suspects() == {2}
    assert intervals_until_hung(detector, answering=True) == 21


def test_texts_beside_a_batch():
    """Texts are tokenized while a batch is computed: both are suspects."""
    detector = HangDetector(WorkerTimeouts())
    for call in (Tokenize(1, ["a"]), run(2), run(3), Tokenize(4, ["b"])):
        detector.begin(call, 20)
    assert detector.suspects() == {1, 2, 4}


def test_gateway_held_up():
    """However long the gateway itself was held up, that is one interval."""
    detector = HangDetector(WorkerTimeouts(hang_s=30))
    detector.begin(run(1), 1.5)
    assert detector.poll() == ""
