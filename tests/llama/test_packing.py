"""Inputs packed end to end, and split again: plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.backends.gguf.packing import PackedTokens

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
    lengths = source.integers(1, 300, source.integers(1, 64, endpoint=True))
    packed = PackedTokens.of(Batch(np.zeros(lengths.sum(), np.int32), lengths))
    _, tails = packed.split_tails(64)
    assert min(64, len(packed)) <= len(tails) < 128
    assert set(tails.sequence_ids.tolist()) == set(range(len(lengths)))


def test_chunks_are_even():
    """Chunks keep the order, hold no more than the given size, and none is nearly empty."""
    packed = PackedTokens.of(Batch.of([np.arange(1100, dtype=np.int32)]))
    chunks = list(packed.chunks(512))
    assert [len(chunk) for chunk in chunks] == [366, 367, 367]
    assert [row for chunk in chunks for row in rows(chunk)] == rows(packed)
    assert list(PackedTokens.of(Batch.of([])).chunks(512)) == []
