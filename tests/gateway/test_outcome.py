"""Which answers of a worker are believed."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings_gateway.batching.outcome import outcomes
from embeddings_gateway.workers.worker import WrongAnswer
from tests.gateway.fakes import WIDTH, make_ids, make_info, right_vectors

BATCH = [make_ids(3), make_ids(4), make_ids(5)]


def usable(vectors, **facts):
    """Return which rows are believed."""
    return [one is not None for one in outcomes(vectors, len(BATCH), make_info(**facts))]


def test_right():
    """Every row of a right answer is the vector of the input in its place."""
    vectors = right_vectors(BATCH)
    assert np.array_equal(np.stack(outcomes(vectors, 3, make_info())), vectors)


@pytest.mark.parametrize(
    "shape", [(2, WIDTH), (4, WIDTH), (3, WIDTH - 1), (3, WIDTH + 1), (0, WIDTH), (3, 0)]
)
def test_wrong_shape(shape):
    """An answer of another count or width is not believed at all."""
    with pytest.raises(WrongAnswer):
        outcomes(np.ones(shape, np.float32), 3, make_info())


def test_flat():
    """As many numbers in one row are not believed either."""
    with pytest.raises(WrongAnswer):
        outcomes(right_vectors(BATCH).ravel(), 3, make_info())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalized", [True, False])
def test_not_finite(value, normalized):
    """One number that is not finite condemns its row alone, whatever the model says of its lengths."""
    vectors = right_vectors(BATCH)
    vectors[1, 5] = value
    assert usable(vectors, normalized=normalized) == [True, False, True]


@pytest.mark.parametrize("normalized", [True, False])
def test_zero(normalized):
    """A row of zeros is no vector, whatever the model says of its lengths."""
    vectors = right_vectors(BATCH)
    vectors[2] = 0
    assert usable(vectors, normalized=normalized) == [True, True, False]


@pytest.mark.parametrize(("length", "right"), [(0.995, True), (1.005, True), (0.98, False), (1.02, False)])
def test_unit_length(length, right):
    """Where vectors have unit length, a row may miss it by a hundredth."""
    vectors = right_vectors(BATCH)
    vectors[0] *= length
    assert usable(vectors) == [right, True, True]
    assert usable(vectors, normalized=False) == [True, True, True]
