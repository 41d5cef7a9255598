"""The example that searches with LangChain."""

from __future__ import annotations

import pytest

from tests.clients import needs
from tests.clients.examples import HUT, QUESTIONS, a_long_paragraph, run

needs.package("langchain_openai")


@pytest.mark.parametrize("question", list(QUESTIONS)[:2])
def test_the_paragraph_that_answers_is_found(base_url, question):
    """The first of the paragraphs that are printed is the one that answers the question, with its file."""
    said, _ = run("search_langchain.py", HUT, question, "--base-url", base_url, "--model", "minilm")
    first, *others = said.splitlines()
    source, words = QUESTIONS[question]
    assert source in first
    assert words in first
    assert len(others) == 2


def test_a_paragraph_longer_than_the_model_takes(base_url, tmp_path):
    """A paragraph that is longer than the model takes does not end the search, and is found."""
    settings = ("--base-url", base_url, "--model", "minilm")
    said, _ = run("search_langchain.py", a_long_paragraph(tmp_path), "a flock of animals", *settings)
    assert "long.txt: They counted the sheep" in said
