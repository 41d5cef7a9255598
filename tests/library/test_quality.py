"""What a report says of vectors."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings_gateway.library.embeddings import MAX_COMPARED, examine


def directions(count, dimensions=64, seed=0):
    """Return vectors of unit length near one another, as those of texts are, float32 ``[count, d]``."""
    source = np.random.default_rng(seed)
    vectors = 1 + 0.5 * source.standard_normal((count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_norms():
    """The report has the least, mean and greatest length of all vectors."""
    vectors = directions(10) * np.arange(1, 11, dtype=np.float32)[:, None]
    result = examine(vectors, {9: "failed"}, 0.99)
    assert (result.texts, result.failed, result.dimensions) == (10, 1, 64)
    assert (result.norm_min, result.norm_mean, result.norm_max) == pytest.approx((1, 5, 9), abs=1e-5)


def test_near_duplicates():
    """Pairs of nearly the same direction are named by their texts, whatever else failed before them."""
    vectors = directions(50)
    vectors[40] = 3 * vectors[7]
    vectors[0] = np.nan
    result = examine(vectors, {0: "failed"}, 0.999)
    assert (result.near_duplicates, result.near_duplicate_pairs) == ([(7, 40)], 1)
    assert examine(vectors, {0: "failed"}, -1.0).near_duplicate_pairs == 49 * 48 // 2


def test_many_near_duplicates():
    """Pairs are counted over blocks, and a hundred of them are named."""
    vectors = np.repeat(directions(1), 2100, axis=0)
    result = examine(vectors, {}, 0.99)
    assert result.near_duplicate_pairs == 2100 * 2099 // 2
    assert len(result.near_duplicates) == 100
    assert all(one < other for one, other in result.near_duplicates)


def test_outliers():
    """A vector that points elsewhere is an outlier; if all are similar there is none."""
    vectors = directions(500)
    assert examine(vectors, {}, 0.99).outliers == []
    vectors[123] = -vectors[123]
    assert examine(vectors, {}, 0.99).outliers == [123]
    assert examine(np.repeat(vectors[:1], 10, axis=0), {}, 0.99).outliers == []


def test_hardly_different_vectors():
    """Beside many equal vectors those that differ by next to nothing are no outliers."""
    equal, source = np.ones((60, 64)), np.random.default_rng(0)
    vectors = np.concatenate([equal, 1 + 0.02 * source.standard_normal((40, 64))]).astype(np.float32)
    assert examine(vectors, {}, 0.99).outliers == []


def test_non_finite():
    """A vector that is none is counted, unless its text has failed, and compared with nothing."""
    vectors = directions(5)
    vectors[1, 3] = np.inf
    vectors[2] = np.nan
    vectors[3] = 0
    result = examine(vectors, {2: "failed"}, 0.99)
    assert (result.non_finite, result.compared) == (1, 2)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any(count):
    """A report can be had of next to nothing, and be printed."""
    result = examine(directions(count), {}, 0.99)
    assert (result.texts, result.compared, result.outliers) == (count, count, [])
    assert f"{count} texts" in str(result)


def test_a_great_many():
    """Of more vectors than can be compared an even sample is, and the report says how many."""
    result = examine(directions(2 * MAX_COMPARED + 5, dimensions=4), {}, 1.1)
    assert MAX_COMPARED / 2 < result.compared <= MAX_COMPARED
    assert result.texts == 2 * MAX_COMPARED + 5
