"""Qdrant in memory, with vectors from OpenAI's client: its own client embeds by no such API."""

from __future__ import annotations

import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.clients.stores.library import DOCUMENTS, FACTS, QUESTIONS
from tests.cosine import lowest_cosine

qdrant = needs.package("qdrant_client")
needs.package("openai")


def test_documents_are_found(embed, expected, nearest):
    """Qdrant stores each document's own vector, and a question finds the one that answers it."""
    models = qdrant.models
    client = qdrant.QdrantClient(":memory:")
    client.create_collection("documents", models.VectorParams(size=384, distance=models.Distance.COSINE))
    vectors = embed(DOCUMENTS)
    points = [
        models.PointStruct(id=number, vector=vector, payload={"text": text})
        for number, (vector, text) in enumerate(zip(vectors, DOCUMENTS, strict=True))
    ]
    client.upsert("documents", points)
    stored = client.retrieve("documents", range(len(DOCUMENTS)), with_vectors=True)
    assert [point.payload["text"] for point in stored] == list(DOCUMENTS)
    assert lowest_cosine(np.array([point.vector for point in stored]), expected) >= EXACT
    for vector, fact, distance in zip(embed(QUESTIONS), FACTS, nearest, strict=True):
        (found,) = client.query_points("documents", query=vector, limit=1).points
        assert found.payload["text"] == fact
        assert found.score == pytest.approx(1 - distance, abs=1e-4)
