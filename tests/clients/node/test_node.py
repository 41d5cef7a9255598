"""Clients in JavaScript with their defaults, each in a process of node's."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.clients.overload import ASKING, after_a_refusal
from tests.cosine import lowest_cosine
from tests.server import WAIT_S
from tests.texts import varied_texts

PACKAGES = {
    "openai": "openai",
    "langchain": "@langchain/openai",
    "ai-openai": "@ai-sdk/openai",
    "ai-compatible": "@ai-sdk/openai-compatible",
    "llamaindex": "@llamaindex/openai",
}
NODE = {needs.node_package(package) for package in PACKAGES.values()}.pop()

every_client = pytest.mark.parametrize("client", PACKAGES)


@pytest.fixture
def ask(base_url):
    """Return a function from a client, a model and an input to what the client makes of the answer."""

    def run(client, model, input_, **more):
        job = {"base_url": base_url, "model": model, "input": input_, **more}
        ended = subprocess.run(
            [NODE, needs.NODE / f"{client}.mjs"],
            input=json.dumps(job),
            capture_output=True,
            check=True,
            text=True,
            timeout=WAIT_S,
        )
        return json.loads(ended.stdout)

    return run


@pytest.fixture(scope="module")
def expected(direct):
    """Return the vectors of the texts that every client sends."""
    return direct(varied_texts(200))


@every_client
def test_many_texts_have_their_own_vectors_in_order(ask, expected, client):
    """Texts of all kinds have the vectors that they have without a gateway."""
    answer = ask(client, "minilm-cutting", varied_texts(200))
    assert lowest_cosine(np.array(answer["vectors"]), expected) >= EXACT


@every_client
def test_one_text(ask, direct, client):
    """A single text has its vector too; tokens, where the client tells them, are those that the model saw."""
    answer = ask(client, "minilm", "Hello, world")
    assert lowest_cosine(np.array(answer["vectors"]), direct(["Hello, world"])) >= EXACT
    assert answer.get("tokens", 5) == 5


def test_base64_and_float_are_equal_bit_for_bit(ask):
    """OpenAI's client asks for base64 and decodes it without a look; floats are the same numbers."""
    texts = varied_texts(20)
    coded = ask("openai", "minilm-cutting", texts)
    floats = ask("openai", "minilm-cutting", texts, options={"encoding_format": "float"})
    assert np.float32(coded["vectors"]).tobytes() == np.float32(floats["vectors"]).tobytes()
    assert coded["tokens"] == floats["tokens"]


@pytest.mark.parametrize("client", ["ai-openai", "ai-compatible"])
def test_more_than_one_request(ask, direct, requests, client):
    """The AI SDK cuts what is too much for a request in two, and joins the answers in order."""
    texts = [str(number) for number in range(2100)]
    answer = ask(client, "minilm", texts)
    assert requests("minilm", 200) == 2
    assert len(answer["vectors"]) == 2100
    some = [*range(0, 2048, 50), *range(2040, 2100)]
    expected = direct([texts[at] for at in some])
    assert lowest_cosine(np.array(answer["vectors"])[some], expected) >= EXACT


def test_an_index_finds_what_answers_a_question(ask):
    """LlamaIndex's own index, filled and asked through the gateway."""
    documents = ["Bread rises because of yeast.", "Everest is the highest mountain.", "Penguins cannot fly."]
    result = ask("llamaindex", "minilm", "Which peak is the tallest?", documents=documents)
    assert result == {"found": documents[1]}


MISTAKES = [("nothing", "text", 404, "model"), ("minilm", "word " * 300, 400, "256 tokens")]


@every_client
@pytest.mark.parametrize("mistake", MISTAKES, ids=["model", "length"])
def test_a_mistake_is_told_and_not_repeated(ask, requests, client, mistake):
    """A mistake is an error with the gateway's status and words, at once."""
    model, text, status, word = mistake
    error = ask(client, model, [text])["error"]
    assert error["status"] == status
    assert word in error["message"]
    assert requests(model if status == 400 else "", status) == 1


CLASSES = [
    ("openai", ["NotFoundError", "BadRequestError"]),
    ("langchain", ["NotFoundError", "ContextOverflowError"]),
]


@pytest.mark.parametrize(("client", "classes"), CLASSES)
def test_errors_have_their_class(ask, client, classes):
    """A mistake has the class that it has with the hosted API."""
    assert [ask(client, model, text)["error"]["class"] for model, text, *_ in MISTAKES] == classes


@pytest.mark.parametrize("client", ["openai", "llamaindex"])
def test_what_would_fail_again_is_not_tried_again(ask, requests, client):
    """An input that the model fails on is sent once by clients that ask whether to repeat."""
    error = ask(client, "failing", ["<raise>"])["error"]
    assert (error["status"], error["class"]) == (500, "InternalServerError")
    assert requests("failing", 500) == 1


@every_client
def test_who_is_refused_comes_back(ask, gateway, requests, client):
    """A full queue costs time, and no answer."""
    answer = after_a_refusal(gateway, requests, lambda: ask(client, "slow", [ASKING]))
    assert len(answer["vectors"]) == 1
