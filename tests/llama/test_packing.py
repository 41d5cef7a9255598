"""Inputs packed end to end, and split again: plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.backends.gguf.packing import INPUTS_MAX, PackedTokens, Pooled, share_calls

BATCH = Batch.of([np.array(ids, dtype=np.int32) for ids in ([5, 6, 7], [8], [9, 10])])


def rows(packed):
    """Return packed tokens as (id, position, sequence)."""
    return list(
        zip(packed.ids.tolist(), packed.position_ids.tolist(), packed.sequence_ids.tolist(), strict=True)
    )


def test_inputs_are_packed():
    """Every token has its place in its input, and its input's index."""
    packed = PackedTokens.of(BATCH)
    assert rows(packed) == [(5, 0, 0), (6, 1, 0), (7, 2, 0), (8, 0, 1), (9, 0, 2), (10, 1, 2)]
    assert {array.dtype for array in (packed.ids, packed.position_ids, packed.sequence_ids)} == {
        np.dtype(np.int32)
    }


def test_tails_are_as_short_as_the_count_allows():
    """Tails are one token each where that is enough, else longer; both halves together are all tokens."""
    before, tails = PackedTokens.of(BATCH).split_tails(3)
    assert rows(tails) == [(7, 2, 0), (8, 0, 1), (10, 1, 2)]
    assert rows(before) == [(5, 0, 0), (6, 1, 0), (9, 0, 2)]
    before, tails = PackedTokens.of(BATCH).split_tails(4)
    assert rows(tails) == [(6, 1, 0), (7, 2, 0), (8, 0, 1), (9, 0, 2), (10, 1, 2)]
    before, tails = PackedTokens.of(BATCH).split_tails(100)
    assert len(before) == 0


@pytest.mark.parametrize("seed", range(20))
def test_tails_fit_a_call(seed):
    """However long the inputs are, the tails are at least so many tokens but less than twice as many."""
    source = np.random.default_rng(seed)
    lengths = source.integers(1, 300, source.integers(1, INPUTS_MAX, endpoint=True))
    packed = PackedTokens.of(Batch(np.zeros(lengths.sum(), np.int32), lengths))
    _, tails = packed.split_tails(64)
    assert min(64, len(packed)) <= len(tails) < 128
    assert set(tails.sequence_ids.tolist()) == set(range(len(lengths)))


def test_chunks_are_even():
    """Chunks keep the order, hold no more than the given size, nearly all multiples of 8; none is nearly empty."""
    packed = PackedTokens.of(Batch.of([np.arange(1100, dtype=np.int32)]))
    chunks = list(packed.chunks(512))
    assert [len(chunk) for chunk in chunks] == [360, 368, 372]
    assert [row for chunk in chunks for row in rows(chunk)] == rows(packed)
    assert list(PackedTokens.of(Batch.of([])).chunks(512)) == []


@pytest.mark.parametrize("tokens", [1, 64, 120, 121, 128, 129, 8192, 8191, 1000])
def test_chunks_fit_a_call_when_they_are_filled_up(tokens):
    """Whatever the length, no chunk is larger than a call, and all but the last are multiples of 8."""
    lengths = [len(chunk) for chunk in PackedTokens.of(Batch.of([np.zeros(tokens, np.int32)])).chunks(128)]
    assert sum(lengths) == tokens
    assert max(lengths) <= 128
    assert all(length % 8 == 0 for length in lengths[:-1])


def test_a_call_is_filled_up_by_a_sequence_of_its_own():
    """Tokens are added to a multiple, at the next positions of a sequence that no input has."""
    filled_up = PackedTokens.of(BATCH).filled_up(8, filled=3)
    assert rows(filled_up)[6:] == [(0, 3, INPUTS_MAX), (0, 4, INPUTS_MAX)]
    assert rows(filled_up.filled_up(8, filled=5)) == rows(filled_up)


def test_inputs_share_calls_as_far_as_they_fit():
    """Inputs are together in a call as long as their tokens allow; longer ones have one by themselves."""
    calls = share_calls(np.array([20, 30, 57, 6, 1, 200, 55], np.int32), 56)
    assert sorted(calls) == [[0, 1, 3], [2], [4, 6], [5]]
    assert share_calls(np.array([1, 1], np.int32), 0) == [[1], [0]]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_of_chunks_are_pooled_as_those_of_whole_inputs(pooling):
    """Wherever the chunks begin and end, the pooled vectors are the same."""
    lengths = np.array([3, 200, 1, 90], np.int32)
    packed = PackedTokens.of(Batch(np.arange(lengths.sum(), dtype=np.int32), lengths))
    tokens = np.random.default_rng(0).standard_normal((len(packed), 5)).astype(np.float32)
    pooled = Pooled(pooling, lengths, 5)
    for chunk in packed.chunks(64):
        pooled.add(chunk, tokens[chunk.ids])
    inputs = np.split(tokens, np.cumsum(lengths)[:-1])
    expected = {
        "mean": [i.mean(0) for i in inputs],
        "cls": [i[0] for i in inputs],
        "last": [i[-1] for i in inputs],
    }
    np.testing.assert_allclose(pooled.vectors(), np.stack(expected[pooling]), rtol=1e-5, atol=1e-6)
