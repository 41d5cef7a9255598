"""Ids of OpenAI's vocabulary back to text, with a small vocabulary of the real kind."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

import pytest

from embeddings_gateway.errors import InvalidTokenIds, ModelUnavailable, TooManyTokens
from embeddings_gateway.serving.prepare import cl100k
from embeddings_gateway.serving.prepare.cl100k import Cl100k
from tests.processes import children_of

pytestmark = pytest.mark.anyio

tiktoken = pytest.importorskip("tiktoken", reason="the cl100k extra is not installed")


def encoding():
    """Return a vocabulary of all bytes and one pair of them."""
    ranks = {bytes([number]): number for number in range(256)} | {b"ab": 256}
    return tiktoken.Encoding(
        "small", pat_str=r"(?s:.+)", mergeable_ranks=ranks, special_tokens={"<|end|>": 257}
    )


class Loader:
    """Fails as often as it is told, then gives the vocabulary.

    Attributes:
        calls: how often it was asked.
    """

    def __init__(self, failures):
        self.calls = 0
        self._failures = failures

    def __call__(self):
        """Return the vocabulary, or fail."""
        self.calls += 1
        if self.calls <= self._failures:
            raise ConnectionError("no network")
        return encoding()


@pytest.mark.parametrize("text", ["ab", "abba", "héllo 漢字 🙂", "line\nline", "\x00"])
async def test_round_trip(text):
    """The ids of a text give that text."""
    assert await Cl100k(encoding).texts([encoding().encode(text)]) == [text]


async def test_order():
    """Each input has its own text."""
    assert await Cl100k(encoding).texts([[256], [98], [97, 98]]) == ["ab", "b", "ab"]


async def test_half_a_character():
    """Bytes that are no UTF-8, as at the edge of a chunk, become U+FFFD."""
    assert await Cl100k(encoding).texts([list("ü".encode())[:1], list("aü".encode())[:-1]]) == [
        "\ufffd",
        "a\ufffd",
    ]


async def test_ids_that_stand_for_too_much(monkeypatch):
    """Ids that stand for more characters than a body may have are refused, before the rest of them is decoded."""
    monkeypatch.setattr("embeddings_gateway.serving.prepare.cl100k.MAX_CHARS", 5)
    assert await Cl100k(encoding).texts([[256, 256], [97]]) == ["abab", "a"]
    with pytest.raises(TooManyTokens):
        await Cl100k(encoding).texts([[256, 256], [256], [258]])


@pytest.mark.parametrize("bad", [258, -1, 2**31, 2**32, 2**64, 10**30])
async def test_unknown_id(bad):
    """An id outside the vocabulary is an error in the place of its input; the others have their text."""
    first, second = await Cl100k(encoding).texts([[97], [97, bad]])
    assert first == "a"
    assert isinstance(second, InvalidTokenIds)


async def test_loaded_once():
    """The vocabulary is loaded when it is first needed, and once, however many need it at the same time."""
    loader = Loader(failures=0)
    vocabulary = Cl100k(loader)
    assert loader.calls == 0
    await asyncio.gather(*(vocabulary.texts([[97]]) for _ in range(5)))
    assert loader.calls == 1


async def test_failed_load():
    """While the vocabulary cannot be had ids are refused with the remedy, and it is not fetched each time."""
    loader = Loader(failures=1)
    vocabulary = Cl100k(loader)
    for _ in range(3):
        with pytest.raises(InvalidTokenIds, match="check_embedding_ctx_length=False") as refusal:
            await vocabulary.texts([[97]])
        assert refusal.value.param == "input"
    assert loader.calls == 1


async def test_a_request_that_ends_while_it_is_loaded():
    """A request that is cancelled does not stop the loading, and later requests do not start it again."""
    going_on = threading.Event()
    loader = Loader(failures=0)
    vocabulary = Cl100k(lambda: going_on.wait() and loader())
    first = asyncio.create_task(vocabulary.texts([[97]]))
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(vocabulary.texts([[98]]))
    await asyncio.sleep(0)
    going_on.set()
    assert await second == ["b"]
    assert (loader.calls, first.cancelled()) == (1, True)


async def test_a_load_that_hangs(monkeypatch):
    """While the vocabulary takes long to load, clients get 503 with Retry-After."""
    monkeypatch.setattr("embeddings_gateway.serving.prepare.cl100k.MAX_WAIT_S", 0.0)
    going_on = threading.Event()
    vocabulary = Cl100k(lambda: going_on.wait() and encoding())
    for _ in range(2):
        with pytest.raises(ModelUnavailable) as refusal:
            await vocabulary.texts([[97]])
        assert refusal.value.retry_after
    going_on.set()
    while vocabulary._encoding is None:
        await asyncio.sleep(0)
    assert await vocabulary.texts([[97]]) == ["a"]


async def test_tried_again(monkeypatch):
    """When the minute is over, it is tried again."""
    monkeypatch.setattr("embeddings_gateway.serving.prepare.cl100k.RETRY_S", 0.0)
    loader = Loader(failures=1)
    vocabulary = Cl100k(loader)
    with pytest.raises(InvalidTokenIds):
        await vocabulary.texts([[97]])
    assert await vocabulary.texts([[97]]) == ["a"]
    assert loader.calls == 2


async def test_a_server_that_does_not_answer(monkeypatch, tmp_path):
    """A download that hangs is given up: ids are then refused with the remedy, and no process is left."""
    before = set(children_of(os.getpid()))  # of other tests in this process
    monkeypatch.setattr(cl100k, "MAX_LOAD_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name, value in {
            "HTTPS_PROXY": address,
            "https_proxy": address,
            "TIKTOKEN_CACHE_DIR": str(tmp_path),
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InvalidTokenIds):
            await Cl100k().texts([[97]])
    assert set(children_of(os.getpid())) <= before


SMALL = """
import sys, msgspec
ranks = {bytes([number]): number for number in range(256)}
small = {"name": "small", "pat_str": "(?s:.+)", "mergeable_ranks": ranks, "special_tokens": {"<|end|>": 256}}
sys.stdout.buffer.write(msgspec.msgpack.encode(small))
"""


async def test_a_vocabulary_that_is_fetched(monkeypatch):
    """The vocabulary that the fetching process hands over is used."""
    monkeypatch.setattr(cl100k, "PROGRAM", SMALL)
    assert await Cl100k().texts([[97, 98], [256]]) == ["ab", "<|end|>"]


async def test_a_failure_is_logged_without_secrets(monkeypatch):
    """The log says why the vocabulary cannot be fetched, without the password of a proxy."""
    monkeypatch.setattr(cl100k, "PROGRAM", "raise OSError('no route to http://user:S3CRET@proxy:3128')")
    with pytest.raises(OSError, match=r"no route to http://\*\*\*@proxy:3128"):
        cl100k.load_encoding()
