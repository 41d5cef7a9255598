"""LangChain's ``NVIDIAEmbeddings`` with its defaults, by which it says what a text is and how to cut it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.cosine import lowest_cosine

nvidia = needs.package("langchain_nvidia_ai_endpoints")

TEXTS = [f"Sentence number {number}." for number in range(60)]
"""More than it sends at a time."""

LONG = "word " * 600


@pytest.fixture
def embeddings(base_url):
    """Return a function that makes embeddings with its defaults, but for URL, model, and what it is given."""

    def make(**settings):
        return nvidia.NVIDIAEmbeddings(base_url=base_url, api_key="not-needed", model="minilm", **settings)

    return make


def test_defaults(embeddings, direct):
    """Documents and queries get their own vectors, in their order."""
    client = embeddings()
    vectors = [*client.embed_documents(TEXTS), client.embed_query("how deep is the sea")]
    expected = direct([*TEXTS, "how deep is the sea"])
    assert lowest_cosine(np.array(vectors, np.float32), expected) >= EXACT


def test_long_texts(embeddings, direct):
    """A text that is too long is an error by default, and is cut where it asks for that."""
    with pytest.raises(Exception, match="400"):
        embeddings().embed_query(LONG)
    (vector,) = embeddings(truncate="END").embed_documents([LONG])
    assert lowest_cosine(np.array([vector], np.float32), direct([LONG])) >= EXACT


def test_the_models_that_it_finds(base_url):
    """It lists the gateway's models by their names."""
    client = nvidia.NVIDIAEmbeddings(base_url=base_url, api_key="not-needed", model="fake")
    assert "minilm" in {model.id for model in client.available_models}
