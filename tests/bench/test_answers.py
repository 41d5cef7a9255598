"""What counts as a right answer."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from bench.answers import cosines, vectors_of

ROWS = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)


def body(rows, **changes):
    """Return an answer with these vectors, as bytes."""
    items = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    return json.dumps({"object": "list", "data": items, "model": "m", **changes}).encode()


def test_both_forms_are_read():
    """Lists of numbers and base64 give the same vectors."""
    encoded = [base64.b64encode(row.tobytes()).decode() for row in ROWS]
    np.testing.assert_array_equal(vectors_of(body(ROWS.tolist()), 2), ROWS)
    np.testing.assert_array_equal(vectors_of(body(encoded), 2), ROWS)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{}",
        body([]),
        body([[1.0, 2.0]]),
        body([[1.0, 2.0], [3.0]]),
        body([[1.0, 2.0], [0.0, 0.0]]),
        body(["AAAA", "AAA"]),
        body([], data=[{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]),
        body([base64.b64encode(np.array([np.nan, 1], dtype=np.float32).tobytes()).decode()] * 2),
    ],
)
def test_anything_else_is_wrong(wrong):
    """Not as many vectors as inputs, another order, other widths, nothing or not a number: no answer."""
    assert vectors_of(wrong, 2) is None


def test_cosines_compare_every_row_with_every_row():
    """Rows need not have unit length."""
    found = cosines(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(found, [[1.0, np.sqrt(0.5)], [0.0, np.sqrt(0.5)]])
