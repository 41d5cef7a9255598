"""OpenAI's client with its defaults: the vectors that it brings back."""

from __future__ import annotations

import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.cosine import lowest_cosine
from tests.texts import varied_texts

openai = needs.package("openai")


@pytest.fixture
def client(base_url):
    """Return a client with its defaults, but for the URL and a key that nobody looks at."""
    with openai.OpenAI(base_url=base_url, api_key="not-needed") as client:
        yield client


def test_many_texts_have_their_own_vectors_in_order(client, direct):
    """A few hundred texts of all kinds have the vectors that they have without a gateway."""
    texts = varied_texts(300)
    answer = client.embeddings.create(model="minilm", input=texts, extra_body={"truncate": "right"})
    assert [item.index for item in answer.data] == list(range(300))
    assert lowest_cosine(np.array([item.embedding for item in answer.data]), direct(texts)) >= EXACT
