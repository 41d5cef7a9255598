"""What an answer's headers say of inputs."""

from __future__ import annotations

import pytest

from embeddings_gateway.http.record import listed


@pytest.mark.parametrize(
    ("inputs", "said"),
    [([0], b"0"), ([0, 1], b"0-1"), ([0, 3, 4, 5, 9], b"0,3-5,9"), (range(2048), b"0-2047")],
)
def test_places(inputs, said):
    """Places that follow one another are told as the first and the last."""
    assert listed(inputs) == said


def test_too_many_places():
    """A list stays small whatever it tells, and shows where it ends too early."""
    said = listed(range(0, 2048, 2)).decode()
    assert len(said) < 1100
    *told, last = said.split(",")
    assert last == "..."
    assert [int(place) for place in told] == list(range(0, 2 * len(told), 2))
