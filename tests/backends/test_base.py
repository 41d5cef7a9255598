"""Batches and columns: joined, split and selected without losing or mixing an input."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_gateway.backends.base import Batch, Column, EmbedError
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.spec import FakeSpec

ALL = ("dense", "sparse", "multi_vector", "score")
inputs_of = st.lists(st.lists(st.integers(0, 257), max_size=5), max_size=6)
rows_of = st.lists(st.integers(0, 5), max_size=8)


def batch_of(inputs):
    """Return the inputs as one batch."""
    return Batch.of([np.array(ids, np.int32) for ids in inputs])


@given(inputs_of, rows_of)
def test_select(inputs, rows):
    """Selecting rows of a batch gives these inputs in this order, with their segments."""
    rows = [row for row in rows if row < len(inputs)]
    plain = batch_of(inputs)
    batch = Batch(plain.ids, plain.lengths, plain.ids % 2)
    chosen = batch.select(np.array(rows, np.int64))
    assert [ids.tolist() for ids in chosen.split()] == [inputs[row] for row in rows]
    assert (chosen.segments == chosen.ids % 2).all()


@given(inputs_of, inputs_of)
def test_concat(first, second):
    """Batches one after the other have all inputs in order; one without segments counts as first texts."""
    joined = Batch.concat([batch_of(first), batch_of(second)])
    assert [ids.tolist() for ids in joined.split()] == [*first, *second]
    assert joined.segments is None
    assert (len(joined), joined.tokens) == (len(first) + len(second), sum(map(len, [*first, *second])))
    assert joined.offsets()[-1] == joined.tokens
    pairs = Batch(batch_of(first).ids, batch_of(first).lengths, np.ones_like(batch_of(first).ids))
    segments = Batch.concat([pairs, batch_of(second)]).segments
    assert segments.sum() == pairs.tokens


@pytest.mark.parametrize("output", ALL)
def test_columns(output):
    """A column cut into its inputs and put together again in another order has each input's own rows."""
    backend = FakeBackend(FakeSpec(outputs=ALL, labels=2))
    batch = backend.tokenize(["abc", "", "hello", "aa"])
    column = backend.run(batch, (output,))[output]
    order = np.array([2, 0, 3, 1, 0])
    expected = backend.run(batch.select(order), (output,))[output]
    joined = Column.concat([column.select(order[:2]), column.select(order[2:])])
    assert len(joined) == 5
    for name in ("values", "offsets", "indices"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(expected, name))


def test_fake_columns():
    """The fake backend gives each output its shape: unit vectors, distinct ids, numbers between 0 and 1."""
    backend = FakeBackend(FakeSpec(width=4, outputs=ALL, labels=2))
    columns = backend.run(backend.tokenize(["aab", ""], ["c", ""]), ALL)
    assert columns["dense"].values.shape == (2, 4)
    sparse = columns["sparse"]
    assert sparse.indices.tolist() == [97, 98, 99]
    assert sparse.offsets.tolist() == [0, 3, 3]
    assert (sparse.values > 0).all()
    tokens = columns["multi_vector"]
    assert tokens.offsets.tolist() == [0, 7, 10]
    np.testing.assert_allclose(np.linalg.norm(tokens.values, axis=1), 1, rtol=1e-6)
    scores = columns["score"].values
    assert scores.shape == (2, 2)
    assert ((scores > 0) & (scores < 1)).all()
    assert len(np.unique(scores)) == 4


def test_pairs():
    """A pair is two texts, told apart by segments; a model that takes none refuses it."""
    batch = FakeBackend(FakeSpec(outputs=("score",))).tokenize(["a"], ["bc"])
    assert batch.ids.tolist() == [256, 97, 257, 98, 99, 257]
    assert batch.segments.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(EmbedError, match="no pairs"):
        FakeBackend(FakeSpec()).tokenize(["a"], ["b"])


def test_fake_fingerprint():
    """The fingerprint of a fake model of dense vectors does not depend on the outputs that it could have."""
    assert FakeBackend(FakeSpec()).info.fingerprint == "178867e58d7b7004"


def test_dimensions_for():
    """A client gets the dimensions that it asks for, else the author's default, else all."""
    info = FakeBackend(FakeSpec(width=8)).info
    assert (info.dimensions_for(None), info.dimensions_for(2)) == (8, 2)
    info = msgspec.structs.replace(info, default_dimensions=4)
    assert (info.dimensions_for(None), info.dimensions_for(8)) == (4, 8)
