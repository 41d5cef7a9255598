"""Haystack's ``OpenAITextEmbedder`` and ``OpenAIDocumentEmbedder`` with their defaults."""

from __future__ import annotations

import asyncio
import os

import httpx
import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.cosine import lowest_cosine
from tests.texts import varied_texts

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when it is imported

haystack = needs.package("haystack")
embedders = needs.package("haystack.components.embedders")
retrievers = needs.package("haystack.components.retrievers.in_memory")
stores = needs.package("haystack.document_stores.in_memory")
utils = needs.package("haystack.utils")

BATCH = 32
"""Documents that Haystack sends in one request."""


@pytest.fixture
def told(base_url):
    """Return what an embedder has to be told, but for the model's name."""
    return {"api_base_url": base_url, "api_key": utils.Secret.from_token("not-needed")}


def documents_of(texts):
    """Return a document for each text; the same text twice is two documents."""
    return [haystack.Document(id=str(number), content=text) for number, text in enumerate(texts)]


def test_documents(told, base_url, direct, requests):
    """Documents that fill several requests have their own vectors in order, and usage is that of all."""
    texts = varied_texts(100)
    answer = embedders.OpenAIDocumentEmbedder(model="minilm-cutting", **told).run(documents_of(texts))
    assert requests("minilm-cutting", 200) == 4
    assert [document.content for document in answer["documents"]] == texts
    got = np.array([document.embedding for document in answer["documents"]])
    assert lowest_cosine(got, direct(texts)) >= EXACT
    at_once = httpx.post(
        f"{base_url}/embeddings", json={"model": "minilm", "input": texts, "truncate": "right"}
    )
    assert answer["meta"] == {"model": "minilm-cutting", "usage": at_once.json()["usage"]}


def test_a_text(told, direct):
    """A text has its vector, under the default model's name and in the requested size."""
    answer = embedders.OpenAITextEmbedder(dimensions=128, **told).run("A cat sleeps.")
    assert lowest_cosine(np.array([answer["embedding"]]), direct(["A cat sleeps."])[:, :128]) >= EXACT
    assert answer["meta"] == {"model": "minilm", "usage": {"prompt_tokens": 6, "total_tokens": 6}}


def test_async_methods(told, direct):
    """Documents and a text have their vectors by the asynchronous methods too."""
    texts = varied_texts(40, seed=1)
    documents = embedders.OpenAIDocumentEmbedder(model="minilm-cutting", **told)
    text = embedders.OpenAITextEmbedder(model="minilm-cutting", **told)

    async def ask():
        return await asyncio.gather(documents.run_async(documents_of(texts)), text.run_async("A cat sleeps."))

    many, one = asyncio.run(ask())
    got = np.array([*(document.embedding for document in many["documents"]), one["embedding"]])
    assert lowest_cosine(got, direct([*texts, "A cat sleeps."])) >= EXACT


def test_a_pipeline_finds_the_right_document(told):
    """A store that was filled through the gateway is asked through it, in a pipeline."""
    texts = ["The cat sleeps on the sofa.", "Shares fell sharply in Tokyo.", "Bread is baked from flour."]
    store = stores.InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(embedders.OpenAIDocumentEmbedder(**told).run(documents_of(texts))["documents"])
    pipeline = haystack.Pipeline()
    pipeline.add_component("embedder", embedders.OpenAITextEmbedder(**told))
    pipeline.add_component("retriever", retrievers.InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    for query, text in zip(("a kitten naps", "stock market", "a bakery"), texts, strict=True):
        result = pipeline.run({"embedder": {"text": query}})["retriever"]["documents"]
        assert [document.content for document in result] == [text]


def test_a_document_that_is_too_long_costs_its_batch(told, direct, requests):
    """Of a batch with a document that is too long none has a vector; the others have their own."""
    texts = [f"{number} bottles of beer" for number in range(3 * BATCH)]
    texts[BATCH + 5] = "long " * 1000
    answer = embedders.OpenAIDocumentEmbedder(**told).run(documents_of(texts))
    assert (requests("minilm", 200), requests("minilm", 400)) == (2, 1)
    got = [document.embedding for document in answer["documents"]]
    assert got[BATCH : 2 * BATCH] == [None] * BATCH
    kept = [*range(BATCH), *range(2 * BATCH, 3 * BATCH)]
    assert lowest_cosine(np.array([got[i] for i in kept]), direct([texts[i] for i in kept])) >= EXACT
