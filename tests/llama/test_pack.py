"""Inputs laid end to end, and taken apart again: plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")

from embeddings_gateway.backends.gguf.pack import Pack

BATCH = [np.array(ids, dtype=np.int32) for ids in ([5, 6, 7], [8], [9, 10])]


def rows(pack):
    """Return a pack's tokens as (id, position, sequence)."""
    return list(zip(pack.ids.tolist(), pack.positions.tolist(), pack.sequences.tolist(), strict=True))


def test_inputs_are_laid_end_to_end():
    """Every token has its place in its input, and its input's index."""
    pack = Pack.of(BATCH)
    assert rows(pack) == [(5, 0, 0), (6, 1, 0), (7, 2, 0), (8, 0, 1), (9, 0, 2), (10, 1, 2)]
    assert {array.dtype for array in (pack.ids, pack.positions, pack.sequences)} == {np.dtype(np.int32)}


def test_tails_are_as_short_as_the_count_allows():
    """Tails are one token each where that is enough, else longer; both halves together are all tokens."""
    before, tails = Pack.of(BATCH).split_tails(3)
    assert rows(tails) == [(7, 2, 0), (8, 0, 1), (10, 1, 2)]
    assert rows(before) == [(5, 0, 0), (6, 1, 0), (9, 0, 2)]
    before, tails = Pack.of(BATCH).split_tails(4)
    assert rows(tails) == [(6, 1, 0), (7, 2, 0), (8, 0, 1), (9, 0, 2), (10, 1, 2)]
    before, tails = Pack.of(BATCH).split_tails(100)
    assert len(before) == 0


@pytest.mark.parametrize("seed", range(20))
def test_tails_fit_a_call(seed):
    """However long the inputs are, the tails are at least so many tokens but less than twice as many."""
    source = np.random.default_rng(seed)
    lengths = source.integers(1, 300, source.integers(1, 64, endpoint=True))
    pack = Pack.of([np.zeros(length, dtype=np.int32) for length in lengths])
    _, tails = pack.split_tails(64)
    assert min(64, len(pack)) <= len(tails) < 128
    assert set(tails.sequences.tolist()) == set(range(len(lengths)))


def test_chunks_are_even():
    """Chunks keep the order, hold no more than asked, and none is nearly empty."""
    pack = Pack.of([np.arange(1100, dtype=np.int32)])
    chunks = list(pack.chunks(512))
    assert [len(chunk) for chunk in chunks] == [366, 367, 367]
    assert [row for chunk in chunks for row in rows(chunk)] == rows(pack)
    assert list(Pack.of([]).chunks(512)) == []
