"""Texts that crash or hang a worker: each fails by its index, and all other inputs get their vectors."""

from __future__ import annotations

import math
import time

import pytest

from tests.faults.asking import answers
from tests.faults.models import FULL_SIZE, fault
from tests.faults.truth import Computed, vector_of, vectors_of
from tests.faults.verdict import error_of
from tests.faults.watch import starts, until_ready
from tests.server import serving

TRUTH = Computed("model")
SECRET = "hush-hush"
INDEX = 5
HANG_S = 1
DEATHS = ("abort", "crash", "exit", "tokenizer-abort")


@pytest.fixture
def server(tmp_path):
    """Return a gateway that takes many texts into one batch, and finds out soon that a batch hangs."""
    with serving(tmp_path, fault("model", max_batch_tokens=8192, hang_timeout_s=HANG_S)) as running:
        yield running
        assert SECRET not in running.log.read_text()


def failing_text(mark: str) -> str:
    """Return a text that the backend fails on."""
    return f"{SECRET} <{mark}>"


def texts_with_one(count: int, mark: str) -> list[str]:
    """Return texts of which the backend fails on one."""
    texts = TRUTH.texts(0, count)
    texts[INDEX] = failing_text(mark)
    return texts


def assert_right(texts, reply) -> None:
    """Check that a request got its vectors."""
    assert reply.status == 200, reply.body
    assert TRUTH.right(texts, vectors_of(reply))


def assert_named(error, index) -> None:
    """Check that an error names an input, and says nothing of its text."""
    assert (error["type"], error["code"], error["param"]) == (
        "server_error",
        "input_failed",
        f"input[{index}]",
    )
    assert SECRET not in error["message"]


def assert_failed(reply, index) -> None:
    """Check that a request was answered with the error of one of its inputs, not to be tried again."""
    assert reply.status == 500, reply.body
    assert_named(error_of(reply), index)
    assert reply.headers["x-should-retry"] == "false"


def starts_max(count: int) -> int:
    """Return how many starts may be needed to find one text among so many."""
    return 2 + math.ceil(math.log2(count))


@pytest.mark.parametrize(
    "mark",
    [
        "abort",
        "tokenizer-abort",
        "hang",
        *(pytest.param(mark, marks=FULL_SIZE) for mark in ("crash", "exit", "freeze", "tokenizer-hang")),
    ],
)
def test_one_among_many_requests(server, full_size, tell, mark):
    """Of many requests at once only the one with the failing text fails; sent again, it fails without a crash."""
    count = 64 if full_size or mark in DEATHS else 8
    texts = texts_with_one(count, mark)
    began = time.monotonic()
    replies = answers(server, "model", *([text] for text in texts))
    tell(seconds=time.monotonic() - began, starts=starts(server, "model"))
    for index, (text, reply) in enumerate(zip(texts, replies, strict=True)):
        if index == INDEX:
            assert_failed(reply, 0)
        else:
            assert_right([text], reply)
    until_ready(server)
    before = starts(server, "model")
    assert before <= starts_max(count)
    (again,) = answers(server, "model", [failing_text(mark)])
    assert_failed(again, 0)
    assert starts(server, "model") == before


@pytest.mark.parametrize("mark", ["abort", pytest.param("tokenizer-abort", marks=FULL_SIZE)])
def test_one_among_many_inputs(server, tell, mark):
    """A request of 64 inputs with one failing text fails with that input's index; a partial one fails only there."""
    texts = texts_with_one(64, mark)
    (part,) = answers(server, "model", texts, partial=True)
    tell(seconds=part.seconds, starts=starts(server, "model"))
    assert part.status == 200, part.body
    entries = part.json()["data"]
    assert [entry["index"] for entry in entries] == list(range(64))
    failed = entries.pop(INDEX)
    assert failed["object"] == "embedding_error"
    assert_named(failed["error"], INDEX)
    others = [text for text in texts if text != failing_text(mark)]
    for text, entry in zip(others, entries, strict=True):
        assert TRUTH.right([text], vector_of(entry)[None])
    assert starts(server, "model") <= starts_max(64)
    (whole,) = answers(server, "model", texts)
    assert_failed(whole, INDEX)


@FULL_SIZE
def test_several_at_once(server, tell):
    """Failing texts of several kinds fail their own requests, and no others."""
    requests = [TRUTH.texts(number, 16) for number in range(16)]
    for number, mark in enumerate(DEATHS):
        requests[3 * number][INDEX] = failing_text(mark)
    replies = answers(server, "model", *requests)
    tell(starts=starts(server, "model"))
    for texts, reply in zip(requests, replies, strict=True):
        if any(SECRET in text for text in texts):
            assert_failed(reply, INDEX)
        else:
            assert_right(texts, reply)
    assert starts(server, "model") <= len(DEATHS) * starts_max(16 * 16)
