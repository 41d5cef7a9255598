"""What an answer's headers say of inputs."""

from __future__ import annotations

import pytest

from embeddings_gateway.api.middleware import input_ranges


@pytest.mark.parametrize(
    ("inputs", "said"),
    [([0], "0"), ([0, 1], "0-1"), ([0, 3, 4, 5, 9], "0,3-5,9"), (range(2048), "0-2047")],
)
def test_ranges(inputs, said):
    """Consecutive inputs are written as the first and the last."""
    assert input_ranges(inputs) == said


def test_too_many_inputs():
    """A list stays small, and ends in ``...`` if it is incomplete."""
    said = input_ranges(range(0, 2048, 2))
    assert len(said) < 1100
    *told, last = said.split(",")
    assert last == "..."
    assert [int(place) for place in told] == list(range(0, 2 * len(told), 2))
