"""curl, in the ways in which it sends a request."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from embeddings_gateway.backends.fake import BEGIN, END, fake_vector
from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.cosine import lowest_cosine
from tests.server import WAIT_S
from tests.texts import varied_texts

CURL = needs.program("curl")
BODY = ["--data-binary", "@-"]
UPLOAD = ["--request", "POST", "--upload-file", "-"]

WAYS = {
    "plain": BODY,
    "HTTP/1.0": ["--http1.0", *BODY],
    "offer of HTTP/2": ["--http2", *BODY],
    "waits to be told to go on": [
        "--header",
        "Expect: 100-continue",
        "--expect100-timeout",
        str(WAIT_S),
        *BODY,
    ],
    "chunked": ["--header", "Transfer-Encoding: chunked", *BODY],
    "upload of unknown length": UPLOAD,
    "upload with an offer": ["--http2", *UPLOAD],
    "answers may be compressed": ["--compressed", *BODY],
    "a new connection": ["--header", "Connection: close", *BODY],
}

every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@pytest.fixture
def ask(base_url):
    """Return a function from curl's options, a model and texts to the vectors that came back."""

    def run(options, model, texts):
        body = json.dumps({"model": model, "input": texts}).encode()
        to = [f"{base_url}/embeddings", "--header", "Content-Type: application/json"]
        command = [CURL, "--silent", "--show-error", "--fail", "--max-time", str(WAIT_S), *options, *to]
        answer = json.loads(subprocess.run(command, input=body, capture_output=True, check=True).stdout)
        assert [item["index"] for item in answer["data"]] == list(range(len(texts)))
        return np.array([item["embedding"] for item in answer["data"]])

    return run


@every_way
def test_texts_have_their_own_vectors_in_order(ask, direct, way):
    """However curl sends it, a request gets the vectors that its texts have without a gateway."""
    texts = varied_texts(20)
    assert lowest_cosine(ask(way, "minilm-cutting", texts), direct(texts)) >= EXACT


@every_way
def test_a_large_body_arrives_whole(ask, way):
    """So does a body of nearly a megabyte."""
    texts = [f"{number:04} " + "é" * 70 for number in range(2000)]  # six bytes each, in JSON
    got = ask(way, "fake", texts)
    expected = [fake_vector(np.array([BEGIN, *text.encode(), END]), got.shape[1]) for text in texts]
    assert lowest_cosine(got, np.array(expected)) >= EXACT
