"""What embed promises: shapes, any batch within the limits, and an ordinary error for any other."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")

from embeddings_gateway.backends.base import EmbedError
from tests.cosine import lowest_cosine
from tests.vectors import embed


def ids(*tokens: int) -> np.ndarray:
    """Return the ids of one input."""
    return np.array(tokens, dtype=np.int32)


def random_batch(backend, source: np.random.Generator) -> list[np.ndarray]:
    """Return inputs of random lengths within the backend's limits."""
    budget, batch = backend.info.max_batch_tokens, []
    longest = min(backend.info.max_tokens, int(source.choice([2, 20, 10_000])))
    while len(batch) < backend.info.max_batch_inputs:
        length = int(source.integers(1, longest, endpoint=True))
        budget -= length
        if budget < 0 and batch:
            return batch
        batch.append(source.integers(0, backend.info.vocabulary_size, length, dtype=np.int32))
    return batch


@pytest.mark.parametrize("family", ["bert", "qwen3", "t5"])
def test_three_hundred_random_batches(family, request, open_backend):
    """Any batch within the stated limits is embedded: float32, contiguous, finite, one row per input."""
    files = {"bert": ("bert_file", "cls"), "qwen3": ("qwen3_file", "last"), "t5": ("t5_file", None)}
    fixture, pooling = files[family]
    file = request.getfixturevalue(fixture)
    backend = open_backend(file(pooling) if pooling else file)
    source = np.random.default_rng(3)
    for _ in range(300):
        batch = random_batch(backend, source)
        vectors = embed(backend, batch)
        assert vectors.shape == (len(batch), backend.info.dimensions)
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        assert np.isfinite(vectors).all()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "a batch of 0 inputs"),
        ([ids(2)] * 64, "a batch of 64 inputs"),
        ([ids(2), ids()], "input 1 has 0 tokens"),
        ([ids(*[2] * 65)], "input 0 has 65 tokens"),
        ([ids(2), ids(2, 31)], "input 1 has a token id outside"),
        ([ids(2), ids(-1)], "input 1 has a token id outside"),
        ([ids(*[2] * 40)] * 13, "a batch of 520 tokens"),
    ],
)
def test_what_would_abort_the_engine_is_an_error(batch, message, bert_file, open_backend):
    """A batch that llama.cpp would end the process on is refused, and the next one is embedded."""
    backend = open_backend(bert_file("cls"))
    before = embed(backend, [ids(2, 7, 3)])
    with pytest.raises(EmbedError, match=message):
        embed(backend, batch)
    assert lowest_cosine(embed(backend, [ids(2, 7, 3)]), before) == pytest.approx(1)


def test_a_decoder_refuses_more_tokens_than_its_memory_holds(qwen3_file, open_backend):
    """Inputs that fit one by one, but not together, are refused, and then embedded one by one."""
    backend = open_backend(qwen3_file("last"), max_tokens=1000)
    batch = [np.full(900, 65, np.int32), np.full(900, 66, np.int32)]
    with pytest.raises(EmbedError, match="a batch of 1800 tokens"):
        embed(backend, batch)
    assert all(np.isfinite(embed(backend, [one])).all() for one in batch)


def test_a_failed_call_leaves_a_usable_backend(qwen3_file, open_backend, monkeypatch):
    """An error code of the engine is an EmbedError, and what it left in the memory changes nothing."""
    backend = open_backend(qwen3_file("last"))
    batch = [np.arange(300, dtype=np.int32) % 250]
    before = embed(backend, batch)
    monkeypatch.setattr(backend._contexts._any, "_call", lambda *_: -3)
    with pytest.raises(EmbedError, match="code -3"):
        embed(backend, batch)
    monkeypatch.undo()
    assert lowest_cosine(embed(backend, batch), before) == pytest.approx(1)


def test_a_vector_that_is_not_there_is_an_error(bert_file, open_backend, monkeypatch):
    """A null pointer where the engine should have a vector is an EmbedError."""
    backend = open_backend(bert_file("cls"))
    monkeypatch.setattr(backend._contexts._short, "_call", lambda *_: 0)  # says yes, computes nothing
    with pytest.raises(EmbedError, match="no vector for an input"):
        embed(backend, [ids(2, 7, 3)])
