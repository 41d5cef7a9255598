"""OpenAI's client with its defaults: the vectors that it brings back."""

from __future__ import annotations

import asyncio

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


def vectors(answer) -> np.ndarray:
    """Return the vectors of an answer, float32 ``[inputs, dimensions]``, which stand in order."""
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], np.float32)


def test_many_texts_have_their_own_vectors_in_order(client, direct):
    """A few hundred texts of all kinds have the vectors that they have without a gateway."""
    texts = varied_texts(300)
    answer = client.embeddings.create(model="minilm", input=texts, extra_body={"truncate": "right"})
    assert lowest_cosine(vectors(answer), direct(texts)) >= EXACT


def test_the_async_client_brings_each_task_its_own_vectors(base_url, direct):
    """Tasks that share an asynchronous client, and ask for floats, have the vectors of their own texts."""
    texts = varied_texts(60, seed=1)

    async def ask() -> np.ndarray:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="not-needed") as client:
            wanted = {"model": "minilm-cutting", "encoding_format": "float"}
            parts = [client.embeddings.create(**wanted, input=texts[i : i + 3]) for i in range(0, 60, 3)]
            return np.concatenate([vectors(answer) for answer in await asyncio.gather(*parts)])

    assert lowest_cosine(asyncio.run(ask()), direct(texts)) >= EXACT


def test_one_text_in_few_dimensions(client, direct):
    """One string, under a hosted model's name, has the head of its vector at unit length."""
    answer = client.embeddings.create(model="text-embedding-3-small", input="A cat sleeps.", dimensions=128)
    assert lowest_cosine(vectors(answer), direct(["A cat sleeps."])[:, :128]) >= EXACT
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 6


def test_headers_tell_of_request_time_and_space(client):
    """A raw response tells the request's id, its time, and the space that the model's fact sheet names."""
    raw = client.embeddings.with_raw_response.create(model="minilm", input="A cat sleeps.")
    other = client.embeddings.create(model="minilm", input="A cat sleeps.")
    space = client.models.retrieve("minilm").model_extra["fingerprint"]
    assert raw.headers["x-embedding-space"] == space
    assert raw.headers["openai-processing-ms"].isdigit()
    assert raw.request_id == raw.headers["x-request-id"] == raw.parse()._request_id
    assert raw.request_id not in (None, other._request_id)


@pytest.mark.parametrize("place", [0, 1])
def test_partial_answers_say_which_input_failed(client, direct, place):
    """With ``partial`` an input that is too long leaves the others their vectors, wherever it stands."""
    texts = ["A cat sleeps.", "It rains."]
    texts.insert(place, "long " * 1000)
    answer = client.embeddings.create(model="minilm", input=texts, extra_body={"partial": True})
    failed = answer.data.pop(place)
    assert (failed.object, failed.index, failed.embedding) == ("embedding_error", place, None)
    assert failed.error["code"] == "context_length_exceeded"
    got = np.array([item.embedding for item in answer.data])
    assert lowest_cosine(got, direct(["A cat sleeps.", "It rains."])) >= EXACT


def azure(base_url, **settings):
    """Return Azure's client, which writes the model into the path."""
    endpoint = base_url.removesuffix("/v1")
    return openai.AzureOpenAI(
        azure_endpoint=endpoint, api_key="not-needed", api_version="2024-10-21", **settings
    )


def test_azures_client(base_url, direct):
    """Azure's client gets the vectors of its deployment, whatever model the call names."""
    for settings, model in (({}, "minilm"), ({"azure_deployment": "minilm"}, "another-name")):
        with azure(base_url, **settings) as client:
            answer = client.embeddings.create(model=model, input=["A cat sleeps."])
        assert answer.model == "minilm"
        assert lowest_cosine(vectors(answer), direct(["A cat sleeps."])) >= EXACT


@pytest.mark.parametrize("path", ["", "/", "/v1/", "/v1/v1", "/openai/v1/"])
def test_other_base_urls(base_url, path):
    """The client finds embeddings and models under a base URL that is too short, too long, or Azure's."""
    with openai.OpenAI(base_url=base_url.removesuffix("/v1") + path, api_key="not-needed") as client:
        assert len(client.embeddings.create(model="fake", input="a").data) == 1
        assert "fake" in {model.id for model in client.models.list()}
        assert client.models.retrieve("fake").id == "fake"


def test_a_base_url_that_is_wrong(base_url):
    """Where a base URL cannot be meant, the error says what it has to be."""
    client = openai.OpenAI(base_url=f"{base_url}/embeddings", api_key="not-needed")
    with client, pytest.raises(openai.NotFoundError, match="/v1/embeddings"):
        client.embeddings.create(model="fake", input="a")
