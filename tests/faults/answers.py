"""What a gateway may answer to whatever is sent, and what it has to answer to a good request at any time."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.spec import FakeSpec
from tests.connection import START, Connection, sized

WAIT_S = 30
"""The timeout of the client's socket: a gateway that does not answer is a failure."""

GREW_BYTES_MAX = 20 << 20
CLOSE = START + b"connection: close\r\n"
BACKEND = FakeBackend(FakeSpec())


class Answer(NamedTuple):
    """One answer of the gateway."""

    status: int
    headers: dict[str, str]
    body: bytes


def read_all(sent: bytes) -> list[Answer]:
    """Return the answers in all that came over a connection, of which each has a length."""
    answers = []
    while sent:
        head, end, sent = sent.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        assert end
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", first)
        assert match, first
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", "0"))
        answers.append(Answer(int(match[1]), headers, sent[:length]))
        assert len(answers[-1].body) == length
        sent = sent[length:]
    return answers


def ask(url: str, sent: bytes, *, stops: bool = False) -> list[Answer]:
    """Send bytes over a connection of their own; return what is answered until the gateway closes it.

    Args:
        url: of the gateway.
        sent: anything.
        stops: whether the client says that nothing more will come.
    """
    with Connection(url, WAIT_S) as connection:
        with contextlib.suppress(OSError):  # the gateway may have heard enough
            connection.send(sent)
            if stops:
                connection.socket.shutdown(socket.SHUT_WR)
        try:
            return read_all(connection.everything())
        except ConnectionResetError:
            assert stops  # a client that goes away is not waited for
            return []


def assert_sound(answers: list[Answer]) -> None:
    """Check that each is a success or an error in full, and none is the gateway's own fault."""
    for answer in answers:
        assert answer.status < 500, answer
        if answer.status >= 400:
            error = json.loads(answer.body)["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert error["message"]
            assert isinstance(error["type"], str)
            assert isinstance(error["param"], str | None)
            assert isinstance(error["code"], str | None)


def assert_serves(url: str, text: str = "text") -> None:
    """Check that a good request on a new connection has the vector of its own input."""
    (answer,) = ask(url, CLOSE + sized(json.dumps({"model": "fake", "input": text}).encode()))
    assert answer.status == 200, answer
    (entry,) = json.loads(answer.body)["data"]
    (right,) = BACKEND.run(BACKEND.tokenize([text]), ("dense",))["dense"].values
    assert np.array_equal(np.array(entry["embedding"], np.float32), right)


@contextlib.contextmanager
def memory_bounded(pid: int):
    """Check that a gateway's resident memory is not much larger after the block than before it."""
    before = resident_bytes(pid)
    yield
    assert resident_bytes(pid) - before < GREW_BYTES_MAX


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has now."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10
