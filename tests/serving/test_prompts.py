"""Which prompt goes before texts, and how much of an input is prompt."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings_gateway.errors import InvalidRequest
from embeddings_gateway.serving.prepare.policies import NO_PROMPT, choose_prompt, prompt_tokens
from tests.gateway.fakes import BACKEND, make_info

PROMPTS = {"query": "Q:", "document": "", "ours": "O:"}


@pytest.mark.parametrize(
    ("input_type", "prompts", "default", "expected"),
    [
        ("query", PROMPTS, None, ("query", "Q:")),
        ("document", PROMPTS, "ours", ("document", "")),
        (None, PROMPTS, "ours", ("ours", "O:")),
        (None, PROMPTS, None, NO_PROMPT),
        ("query", {}, None, NO_PROMPT),
        ("document", {"query": "Q:", "passage": "P:"}, None, ("passage", "P:")),
        ("document", {"query": "Q:", "corpus": "C:"}, None, ("corpus", "C:")),
        ("document", {"query": "Q:"}, None, NO_PROMPT),
        ("query", {"document": "D:"}, None, NO_PROMPT),
    ],
)
def test_choice(input_type, prompts, default, expected):
    """A prompt is found under the names that models use; one input type may have none, or a model any."""
    assert choose_prompt(input_type, make_info(prompts=prompts, default_prompt=default)) == expected


def test_prompt_that_the_model_lacks():
    """An input type that a model with prompts does not know is refused by field; the known ones are named."""
    with pytest.raises(InvalidRequest, match="ours") as refusal:
        choose_prompt("query", make_info(prompts={"ours": "O:"}))
    assert refusal.value.param == "input_type"


@pytest.mark.parametrize(("prompt", "text", "expected"), [("Q: ", "abc", 4), ("Q: ", "", 4), ("", "abc", 1)])
def test_tokens_of_a_prompt(prompt, text, expected):
    """What an input has in common with its prompt alone is no text; nor are special tokens."""
    ids, alone = BACKEND.tokenize([prompt + text, prompt]).split()
    assert prompt_tokens(ids, alone, BACKEND.info) == expected


def test_prompt_whose_end_joins_the_text():
    """A last token of the prompt that became part of the text's first is text."""
    alone, ids = np.array([256, 10, 11, 257], np.int32), np.array([256, 10, 99, 20, 257], np.int32)
    assert prompt_tokens(ids, alone, BACKEND.info) == 2
