"""Which results of an engine are believed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from embeddings_gateway.backends.base import Column
from embeddings_gateway.batching.checks import usable
from embeddings_gateway.workers.engine import InvalidResult
from tests.gateway.fakes import BACKEND, OUTPUTS, make_info, right

BATCH = BACKEND.tokenize(["abc", "b", "hello"])
INFO = make_info()


def check(output, column, **facts):
    """Return which inputs are believed to have a usable result."""
    return usable({output: column}, len(BATCH), (output,), make_info(**facts)).tolist()


def right_of(output):
    """Return the right column of an output, whose parts may be changed."""
    column = right(BATCH, [output])[output]
    return Column(*(None if part is None else part.copy() for part in dataclasses.astuple(column)))


def last_row(column):
    """Return where the rows of the second input end."""
    return 1 if column.offsets is None else int(column.offsets[2]) - 1


def test_right():
    """Every output of a right result is usable, alone and with all others."""
    assert usable(right(BATCH, OUTPUTS), 3, OUTPUTS, INFO).tolist() == [True] * 3


MISSHAPED = {
    "an input too few": lambda column: column.select(np.arange(2)),
    "an input too many": lambda column: column.select(np.array([0, 1, 2, 2])),
    "no input": lambda column: column.select(np.arange(0)),
    "too wide": lambda column: dataclasses.replace(column, values=np.hstack([column.values] * 2)),
    "too narrow": lambda column: dataclasses.replace(column, values=column.values[:, :-1]),
    "flat": lambda column: dataclasses.replace(column, values=column.values.ravel()),
    "offsets or none": lambda column: dataclasses.replace(
        column, offsets=np.arange(4) if column.offsets is None else None
    ),
    "indices or none": lambda column: dataclasses.replace(
        column, indices=np.zeros(len(column.values), np.int32) if column.indices is None else None
    ),
}


@pytest.mark.parametrize("kind", MISSHAPED)
@pytest.mark.parametrize("output", OUTPUTS)
def test_misshaped(output, kind):
    """A column of the wrong count, width or parts is invalid as a whole."""
    with pytest.raises(InvalidResult):
        check(output, MISSHAPED[kind](right_of(output)))


@pytest.mark.parametrize("offsets", [[], [1, 2, 3, 4], [0, 5, 3, -1], [0, 1, 2, -2], [0, 1, 2, 99]])
@pytest.mark.parametrize("output", ["sparse", "multi_vector"])
def test_broken_offsets(output, offsets):
    """Offsets have to begin at 0, never fall, and end where the values do."""
    column = right_of(output)
    last = {-1: len(column.values), -2: len(column.values) - 1}
    broken = np.array([last.get(offset, offset) for offset in offsets], np.int64)
    with pytest.raises(InvalidResult):
        check(output, dataclasses.replace(column, offsets=broken))


def test_fewer_indices_than_values():
    """A sparse column has an index for each value."""
    column = right_of("sparse")
    with pytest.raises(InvalidResult):
        check("sparse", dataclasses.replace(column, indices=column.indices[:-1]))


def test_missing_output():
    """A result without a requested output is invalid."""
    with pytest.raises(InvalidResult, match="sparse"):
        usable(right(BATCH, ["dense"]), 3, ("dense", "sparse"), INFO)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("output", OUTPUTS)
def test_not_finite(output, value):
    """A number that is not finite makes only its own input unusable, in any output."""
    column = right_of(output)
    column.values[last_row(column), -1] = value
    assert check(output, column) == [True, False, True]
    assert check(output, column, normalized=False) == [True, False, True]


@pytest.mark.parametrize("output", ["dense", "multi_vector"])
@pytest.mark.parametrize("normalized", [True, False])
def test_zero(output, normalized):
    """A vector of zeros is unusable, whatever the model states about lengths."""
    column = right_of(output)
    column.values[last_row(column)] = 0
    assert check(output, column, normalized=normalized) == [True, False, True]


@pytest.mark.parametrize(("length", "is_right"), [(0.996, True), (1.004, True), (0.98, False), (1.02, False)])
@pytest.mark.parametrize("output", ["dense", "multi_vector"])
def test_unit_length(output, length, is_right):
    """A dense vector may miss unit length by a hundredth; vectors of tokens may have any length."""
    column = right_of(output)
    column.values[last_row(column)] *= length
    assert check(output, column) == [True, is_right or output == "multi_vector", True]
    assert check(output, column, normalized=False) == [True] * 3


def test_an_input_without_token_vectors():
    """An input has at least one token, and so at least one vector of a token."""
    column = right_of("multi_vector")
    first, second, third = np.diff(column.offsets).tolist()
    rows = np.concatenate([column.values[:first], column.values[first + second :]])
    assert check("multi_vector", Column(rows, np.cumsum([0, first, 0, third]))) == [True, False, True]


@pytest.mark.parametrize(
    ("part", "value"), [("values", 0), ("values", -0.5), ("indices", -1), ("indices", INFO.vocabulary_size)]
)
def test_sparse_entries(part, value):
    """The weights of sparse vectors are positive, and belong to tokens of the vocabulary."""
    column = right_of("sparse")
    getattr(column, part)[last_row(column)] = value
    assert check("sparse", column) == [True, False, True]


def test_no_entries():
    """An input may have no sparse entry at all, and a score may be zero or negative."""
    empty = Column(np.empty((0, 1), np.float32), np.zeros(4, np.int64), np.empty(0, np.int32))
    assert check("sparse", empty) == [True] * 3
    assert check("score", Column(np.array([[0, -1, 2]] * 3, np.float32))) == [True] * 3


def test_every_output_has_to_be_usable():
    """An input is usable only if all its outputs are."""
    columns = right(BATCH, OUTPUTS)
    columns["dense"].values[0] = np.nan
    columns["score"].values[2] = np.nan
    assert usable(columns, 3, OUTPUTS, INFO).tolist() == [False, True, False]
