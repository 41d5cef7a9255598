"""What Python itself brings: ``http.client`` and ``urllib``."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

from embeddings_gateway.backends.fake import BEGIN, END, fake_vector
from tests.clients.conftest import EXACT
from tests.cosine import lowest_cosine
from tests.server import WAIT_S
from tests.texts import varied_texts

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def connection(gateway):
    """Return a connection that stays."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(gateway.url).netloc, timeout=WAIT_S)
    yield connection
    connection.close()


def request(model, texts):
    """Return the body of a request."""
    return json.dumps({"model": model, "input": texts}).encode()


def vectors(answer):
    """Return the vectors of an answer that has arrived."""
    return np.array([item["embedding"] for item in json.loads(answer.read())["data"]])


def test_a_connection_that_stays(connection):
    """A thousand requests in a row on one connection each get the vector of their own text."""
    connection.connect()
    first = connection.sock
    for number in range(1000):
        connection.request("POST", "/v1/embeddings", request("fake", [f"text {number}"]), JSON)
        (vector,) = vectors(connection.getresponse())
        expected = fake_vector(np.array([BEGIN, *f"text {number}".encode(), END]), len(vector))
        np.testing.assert_allclose(vector, expected, atol=1e-6)
        assert connection.sock is first


def test_a_body_that_is_made_while_it_is_sent(connection, direct):
    """A body from a generator arrives in chunks, between others that have a length."""
    texts = varied_texts(20)
    body, expected = request("minilm-cutting", texts), direct(texts)
    for _ in range(2):
        pieces = (body[at : at + 100] for at in range(0, len(body), 100))
        for whole_or_not in (pieces, body):
            connection.request("POST", "/v1/embeddings", whole_or_not, JSON)
            assert lowest_cosine(vectors(connection.getresponse()), expected) >= EXACT


def test_one_connection_for_each_request(base_url, direct):
    """``urllib`` ends its connection with each request, and reads an error's body too."""
    texts = varied_texts(20)
    ask = urllib.request.Request(f"{base_url}/embeddings", request("minilm-cutting", texts), JSON)
    with urllib.request.urlopen(ask, timeout=WAIT_S) as answer:
        assert lowest_cosine(vectors(answer), direct(texts)) >= EXACT
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{base_url}/models/nothing", timeout=WAIT_S)
    with caught.value as error:
        assert json.loads(error.read())["error"]["code"] == "model_not_found"
