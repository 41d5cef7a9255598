"""About how many tokens inputs have, before that is known."""

from __future__ import annotations

import pytest

from embeddings_gateway.serving.ask import Ask
from embeddings_gateway.serving.estimate import Estimate
from tests.gateway.fakes import make_info

INFO = make_info(max_tokens=512)
SPECIAL = len(INFO.prefix) + len(INFO.suffix)
QUERY = Ask(["what a query may be long"])
DOCUMENTS = Ask(["x" * 1000] * 200)


def learned(*, asks=1, words="", of=QUERY, tokens_per_char=0.25):
    """Return an estimate that has seen such requests, of texts with so many tokens to a character."""
    estimate = Estimate()
    chars = sum(len(words) + len(text) for text in of.inputs)
    for _ in range(asks):
        estimate.learn(
            of, words, INFO, len(of.inputs), round(chars * tokens_per_char) + SPECIAL * len(of.inputs)
        )
    return estimate


def test_ids():
    """Ids are as many tokens as they are, beside the special ones of each input."""
    assert Estimate().of(Ask([[1, 2, 3], [4]]), "", INFO, cuts=False) == 4 + 2 * SPECIAL


@pytest.mark.parametrize("tokens_per_char", [0.1, 0.25, 1.0])
def test_texts_as_before(tokens_per_char):
    """Texts are taken to have as many tokens to a character as those before."""
    estimate = learned(asks=500, of=DOCUMENTS, tokens_per_char=tokens_per_char)
    found = estimate.of(DOCUMENTS, "", INFO, cuts=False)
    assert found == pytest.approx(200_000 * tokens_per_char, rel=0.05)


def test_queries_say_little_of_documents():
    """What stands round short texts, special tokens and a prompt, is not taken to be in long ones."""
    words = "Instruct: find what answers the question. Query: "
    estimate = learned(asks=1000, words=words)
    assert estimate.of(DOCUMENTS, "", INFO, cuts=False) == pytest.approx(50_000, rel=0.1)


def test_texts_that_are_cut():
    """Of a text that is cut no more is counted than the model takes."""
    long = Ask(["x" * 100_000] * 3)
    assert Estimate().of(long, "", INFO, cuts=True) == 3 * 512
    assert Estimate().of(long, "", INFO, cuts=False) > 70_000
