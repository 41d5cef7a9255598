"""LiteLLM's functions with their defaults: vectors, usage and errors."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.clients.overload import ASKING, after_a_refusal
from tests.cosine import lowest_cosine
from tests.texts import varied_texts

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet for prices
litellm = needs.package("litellm")


@pytest.fixture
def ask(base_url):
    """Return ``litellm.embedding`` for a model of the gateway, and the texts."""
    return lambda model, texts, **more: litellm.embedding(
        f"openai/{model}", input=texts, api_base=base_url, api_key="not-needed", **more
    )


def vectors(answer):
    """Return the vectors of an answer in their order, after checking it."""
    assert [item["index"] for item in answer.data] == list(range(len(answer.data)))
    return np.array([item["embedding"] for item in answer.data])


def test_many_texts_have_their_own_vectors_in_order(ask, direct):
    """A few hundred texts of all kinds have the vectors that they have without a gateway."""
    texts = varied_texts(300)
    answer = ask("minilm-cutting", texts)
    assert lowest_cosine(vectors(answer), direct(texts)) >= EXACT


def test_usage_counts_the_models_own_tokens(ask):
    """What LiteLLM computes the price of is what the model saw."""
    usage = ask("minilm", ["Hello, world", "Good night, moon"]).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (11, 11)


def test_dimensions_reach_the_gateway(ask, direct):
    """LiteLLM passes ``dimensions`` on for the names of OpenAI's own models, which may be aliases."""
    short = vectors(ask("text-embedding-3-small", ["Hello, world"], dimensions=64))
    assert lowest_cosine(short, direct(["Hello, world"])[:, :64]) >= EXACT


def test_many_at_once(base_url, direct):
    """Asynchronous calls at once each get the vectors of their own texts."""
    texts = varied_texts(60, seed=1)

    async def ask_all():
        calls = [
            litellm.aembedding(
                "openai/minilm-cutting", input=texts[at : at + 3], api_base=base_url, api_key="x"
            )
            for at in range(0, len(texts), 3)
        ]
        return await asyncio.gather(*calls)

    got = np.concatenate([vectors(answer) for answer in asyncio.run(ask_all())])
    assert lowest_cosine(got, direct(texts)) >= EXACT


MISTAKES = [
    ("nothing", ["text"], {}, litellm.NotFoundError),
    ("minilm", ["word " * 300], {}, litellm.ContextWindowExceededError),
    ("minilm", ["text", ""], {}, litellm.BadRequestError),
    ("text-embedding-3-small", ["text"], {"dimensions": 65}, litellm.BadRequestError),
]


@pytest.mark.parametrize(("model", "texts", "more", "kind"), MISTAKES)
def test_a_mistake_has_its_class(ask, model, texts, more, kind):
    """A mistake raises what it raises with the hosted API, so that fallbacks for long texts work."""
    with pytest.raises(kind):
        ask(model, texts, **more)


def test_what_would_fail_again_is_not_tried_again(ask, requests):
    """An input that the model fails on is sent once."""
    with pytest.raises(litellm.InternalServerError):
        ask("failing", ["<raise>"])
    assert requests("failing", 500) == 1


def test_who_is_refused_comes_back(ask, gateway, requests):
    """A full queue costs time, and no answer."""
    answer = after_a_refusal(gateway, requests, lambda: ask("slow", [ASKING]))
    assert len(answer.data) == 1
