"""About how many tokens inputs have, before that is known."""

from __future__ import annotations

import pytest

from embeddings_gateway.serving.prepare.policies import Estimate
from tests.gateway.fakes import make_info

INFO = make_info(max_tokens=512)
SPECIAL = len(INFO.prefix) + len(INFO.suffix)
QUERY = ["what a query may be long"]
DOCUMENTS = ["x" * 1000] * 200


def learned(*, calls=1, prompt="", of=QUERY, tokens_per_char=0.25):
    """Return an estimate that has seen such requests, of texts with so many tokens to a character."""
    estimate = Estimate()
    chars = sum(len(prompt) + len(text) for text in of)
    for _ in range(calls):
        estimate.learn(of, prompt, INFO, len(of), round(chars * tokens_per_char) + SPECIAL * len(of))
    return estimate


def test_ids():
    """Ids are as many tokens as they are, beside the special ones of each input."""
    assert Estimate().of([[1, 2, 3], [4]], "", INFO, cuts=False) == 4 + 2 * SPECIAL


def test_pairs():
    """A pair counts with both of its texts."""
    pairs = [("x" * 400, "x" * 600)] * 2
    assert Estimate().of(pairs, "", INFO, cuts=False) == Estimate().of(["x" * 1000] * 2, "", INFO, cuts=False)


@pytest.mark.parametrize("tokens_per_char", [0.1, 0.25, 1.0])
def test_texts_as_before(tokens_per_char):
    """Texts are taken to have as many tokens to a character as those before."""
    estimate = learned(calls=500, of=DOCUMENTS, tokens_per_char=tokens_per_char)
    tokens = estimate.of(DOCUMENTS, "", INFO, cuts=False)
    assert tokens == pytest.approx(200_000 * tokens_per_char, rel=0.05)


def test_queries_say_little_of_documents():
    """Special tokens and prompts of short texts do not raise the estimate of long texts."""
    prompt = "Instruct: find what answers the question. Query: "
    estimate = learned(calls=1000, prompt=prompt)
    assert estimate.of(DOCUMENTS, "", INFO, cuts=False) == pytest.approx(50_000, rel=0.1)


def test_texts_that_are_cut():
    """Of a text that is cut no more is counted than the model takes."""
    long = ["x" * 100_000] * 3
    assert Estimate().of(long, "", INFO, cuts=True) == 3 * 512
    assert Estimate().of(long, "", INFO, cuts=False) > 70_000
