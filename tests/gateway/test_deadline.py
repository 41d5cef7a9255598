"""How long a request may take, by its header and by what the gateway gives."""

from __future__ import annotations

import pytest

from embeddings_gateway.api.schemas import deadline_of
from embeddings_gateway.errors import InvalidRequest


def test_not_said():
    """Without the header a request has what the gateway gives."""
    assert deadline_of({}, 100, 7) == 107


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (b"1", 0.001),
        (b"2500", 2.5),
        (b"0042", 0.042),
        (b"7001", 7),
        (b"9" * 5000, 7),
        (b"0" * 5000 + b"5", 0.005),
    ],
)
def test_said(said, seconds):
    """With it, it has so many milliseconds, but no more than the gateway gives."""
    assert deadline_of({b"x-request-timeout-ms": said}, 100, 7) == 100 + seconds


@pytest.mark.parametrize(
    "said", [b"", b"0", b"000", b"-1", b"+1", b"1.5", b"1e3", b" 1", b"1_000", b"0x10", b"soon", "१".encode()]
)
def test_not_a_time(said):
    """What is no whole number from 1 on is refused by name."""
    with pytest.raises(InvalidRequest) as refusal:
        deadline_of({b"x-request-timeout-ms": said}, 100, 7)
    assert refusal.value.param == "x-request-timeout-ms"
