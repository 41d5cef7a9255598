"""Chroma with its embedding function for OpenAI."""

from __future__ import annotations

import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.clients.stores.library import DOCUMENTS, FACTS, QUESTIONS
from tests.cosine import lowest_cosine

chromadb = needs.package("chromadb")
needs.package("openai")


@pytest.fixture
def collection(base_url, monkeypatch):
    """Return a collection in memory that embeds by the gateway, and reports to nobody."""
    functions = needs.package("chromadb.utils.embedding_functions")
    monkeypatch.setenv("CHROMA_OPENAI_API_KEY", "not-needed")
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    embedding = functions.OpenAIEmbeddingFunction(model_name="minilm-cutting", api_base=base_url)
    yield client.create_collection("documents", embedding_function=embedding)
    client.delete_collection("documents")


def test_documents_are_found(collection, expected, nearest):
    """Chroma stores each document with its own vector, and a question finds the one that answers it."""
    ids = [str(number) for number in range(len(DOCUMENTS))]
    collection.add(ids=ids, documents=list(DOCUMENTS))
    stored = collection.get(ids=ids, include=["embeddings", "documents"])
    places = [int(name) for name in stored["ids"]]
    assert sorted(places) == list(range(len(DOCUMENTS)))
    assert stored["documents"] == [DOCUMENTS[place] for place in places]
    assert lowest_cosine(np.array(stored["embeddings"]), expected[places]) >= EXACT
    result = collection.query(query_texts=list(QUESTIONS), n_results=1)
    assert [first for (first,) in result["documents"]] == list(FACTS)
    assert [near for (near,) in result["distances"]] == pytest.approx(nearest, abs=1e-4)
