"""LlamaIndex's ``OpenAIEmbedding``, which knows OpenAI's model names alone, and ``OpenAILikeEmbedding``."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.cosine import lowest_cosine
from tests.texts import varied_texts

openai = needs.package("openai")
core = needs.package("llama_index.core")
embeddings_openai = needs.package("llama_index.embeddings.openai")
embeddings_like = needs.package("llama_index.embeddings.openai_like")

CATS, SHARES = "The cat sleeps on the sofa.", "Shares fell sharply in Tokyo."


@pytest.fixture
def by_alias(base_url):
    """Return OpenAI's embedding with its defaults, its model name among them, but for URL and key."""
    return embeddings_openai.OpenAIEmbedding(api_base=base_url, api_key="not-needed")


@pytest.fixture
def by_name(base_url):
    """Return a function that makes embeddings with their defaults, but for URL, key and the model's name."""

    def make(model: str, **settings):
        wanted = {"model_name": model, "api_base": base_url, "api_key": "not-needed"}
        return embeddings_like.OpenAILikeEmbedding(**wanted, **settings)

    return make


def test_a_batch_under_openais_name(by_alias, direct, requests):
    """Texts that fill several requests have their own vectors in order, under the default model's name."""
    texts = [f"{number} bottles of beer on the wall" for number in range(250)]
    assert lowest_cosine(np.array(by_alias.get_text_embedding_batch(texts)), direct(texts)) >= EXACT
    assert requests("minilm", 200) == 3


def test_a_batch_under_the_models_own_name(by_name, direct, requests):
    """Texts of all kinds have their own vectors in order, in many small requests."""
    texts = varied_texts(60)
    got = by_name("minilm-cutting").get_text_embedding_batch(texts)
    assert lowest_cosine(np.array(got), direct(texts)) >= EXACT
    assert requests("minilm-cutting", 200) == 6


def test_one_text_and_one_query(by_alias, by_name, direct):
    """A text and a query by themselves have their vectors, in the requested size."""
    got = [by_alias.get_text_embedding(CATS), by_alias.get_query_embedding(SHARES)]
    assert lowest_cosine(np.array(got), direct([CATS, SHARES])) >= EXACT
    short = by_name("minilm", dimensions=64).get_query_embedding(CATS)
    assert lowest_cosine(np.array([short]), direct([CATS])[:, :64]) >= EXACT


def test_async_methods(by_name, direct):
    """Batches, texts and queries have their vectors by the asynchronous methods too."""
    asks, texts = by_name("minilm-cutting", embed_batch_size=7), varied_texts(40, seed=1)

    async def ask():
        return await asyncio.gather(
            asks.aget_text_embedding_batch(texts),
            asks.aget_text_embedding(CATS),
            asks.aget_query_embedding(SHARES),
        )

    batch, text, query = asyncio.run(ask())
    assert lowest_cosine(np.array([*batch, text, query]), direct([*texts, CATS, SHARES])) >= EXACT


def test_an_index_finds_the_right_text(by_alias):
    """An index that was built and is asked through the gateway finds the text that means the same."""
    texts = [CATS, SHARES, "Bread is baked from flour."]
    documents = [core.Document(text=text) for text in texts]
    retriever = core.VectorStoreIndex.from_documents(documents, embed_model=by_alias).as_retriever(
        similarity_top_k=1
    )
    for query, text in zip(("a kitten naps", "stock market", "a bakery"), texts, strict=True):
        assert [node.text for node in retriever.retrieve(query)] == [text]


def test_a_text_that_is_too_long_is_an_error(by_alias, requests):
    """A text that is longer than the model takes is an error that names it, and is not tried again."""
    with pytest.raises(openai.BadRequestError) as caught:
        by_alias.get_text_embedding_batch(["short", "long " * 1000])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input[1]")
    assert requests("minilm", 400) == 1
