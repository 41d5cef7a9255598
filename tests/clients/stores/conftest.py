"""What the tests of stores share: OpenAI's client as their applications use it, and a PostgreSQL."""

from __future__ import annotations

import pytest

from tests.clients import needs
from tests.clients.stores.library import DOCUMENTS, QUESTIONS
from tests.clients.stores.postgres import running


@pytest.fixture
def embed(base_url):
    """Return a function from texts to their vectors, by OpenAI's client with its defaults."""
    openai = needs.package("openai")
    with openai.OpenAI(base_url=base_url, api_key="not-needed") as client:
        yield lambda texts: [
            item.embedding
            for item in client.embeddings.create(model="minilm-cutting", input=list(texts)).data
        ]


@pytest.fixture(scope="session")
def expected(direct):
    """Return the vectors of the documents, without a gateway, ``[documents, 384]``."""
    return direct(DOCUMENTS)


@pytest.fixture(scope="session")
def nearest(expected, direct):
    """Return the cosine distance of each question to the document nearest to it, without gateway or store."""
    return (1 - direct(QUESTIONS) @ expected.T).min(axis=1).tolist()


@pytest.fixture(scope="module")
def postgres():
    """Return the folder of the socket of a PostgreSQL that knows pgvector."""
    with running() as folder:
        yield folder
