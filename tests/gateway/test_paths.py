"""Which paths mean the same as those that the description names."""

from __future__ import annotations

import json

import pytest

from embeddings_gateway.api.paths import EMBEDDINGS, Target, target_of
from tests.connection import Connection, sized
from tests.server import serving

EMBED = {
    "/v1/embeddings": None,
    "/v1/embeddings/": None,
    "/embeddings": None,
    "/v1/v1/embeddings": None,
    "//v1/embeddings": None,
    "/v1//embeddings": None,
    "/openai/v1/embeddings": None,
    "/openai/deployments/m/embeddings": "m",
    "/openai/deployments/org/m/embeddings/": "org/m",
    "/v1/openai/deployments/m/embeddings": "m",
    "/v1/engines/m@query/embeddings": "m@query",
    "/engines/m/embeddings": "m",
}
MODELS = {
    "/models": "/v1/models",
    "/v1/v1/models/": "/v1/models",
    "/openai/models": "/v1/models",
    "/models/org/m": "/v1/models/org/m",
    "/v1/models/m": "/v1/models/m",
    "/v1/models/v1/models": "/v1/models/v1/models",
}
OTHERS = (
    "",
    "/v1",
    "/docs",
    "/v1/embeddings/embeddings",
    "/V1/embeddings",
    "/api/embeddings",
    "/api/v1/embeddings",
    "/v1/embeddingsx",
    "/v1/engines/embeddings",
    "/openai/deployments/m/completions",
    "/v1/completions",
)


@pytest.mark.parametrize("path", EMBED)
def test_embeddings(path):
    """A base URL that is too short, too long or another API's still means the embeddings, and may name a model."""
    assert target_of(path) == Target(EMBEDDINGS, EMBED[path])


@pytest.mark.parametrize("path", MODELS)
def test_models(path):
    """The same holds for the list of models; a model's own name is left as it is."""
    assert target_of(path) == Target(MODELS[path])


@pytest.mark.parametrize("path", OTHERS)
def test_other_paths(path):
    """A path that might mean something else is left as it is: it is an unknown one."""
    assert target_of(path) == Target(path)


def test_a_prefix_that_a_proxy_leaves():
    """The prefix of the setting is taken away once, and a path may also come without it."""
    for path in ("/gateway/v1/embeddings", "/gateway/embeddings", "/v1/embeddings"):
        assert target_of(path, "/gateway").path == EMBEDDINGS
    assert target_of("/gateway", "/gateway").path == "/gateway"
    assert target_of("/gatewayx/v1/embeddings", "/gateway").path == "/gatewayx/v1/embeddings"


def test_a_long_path_is_read_in_time():
    """A path made of what a prefix may consist of is translated, or left as it is, without trying all splits."""
    for prefix in ("/v1", "/openai", "/openai/v1", "/engines"):
        path = prefix * 4000
        assert target_of(f"{path}/nothing").path == f"{path}/nothing"


CONFIG = """
[models.one]
backend = "fake"
aliases = ["org/one"]

[models.other]
backend = "fake"
width = 4
"""


@pytest.fixture(scope="module")
def post(tmp_path_factory):
    """Return a function that posts a body to a path, and returns the status and the decoded answer."""
    with serving(tmp_path_factory.mktemp("paths"), CONFIG) as server, Connection(server.url) as client:

        def send(path, body):
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            client.send(head.encode() + sized(json.dumps(body).encode()))
            status, _, content = client.receive()
            return status, json.loads(content)

        yield send


@pytest.mark.parametrize(
    "body", [{}, {"model": None}, {"model": "one"}, {"model": "other"}, {"model": "none"}]
)
def test_the_model_in_the_path(post, body):
    """The model of the path is asked, whatever the body says, as clients of Azure's expect."""
    for path in (
        "/openai/deployments/org%2Fone/embeddings?api-version=2024-02-01",
        "/v1/engines/one/embeddings",
    ):
        status, answer = post(path, {"input": ["a"], **body})
        assert (status, answer["model"], len(answer["data"][0]["embedding"])) == (200, "one", 8)


def test_an_unknown_model_in_the_path(post):
    """It is an error, never the model of the body."""
    status, answer = post("/v1/engines/none/embeddings", {"model": "one", "input": "a"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_a_path_without_a_model(post):
    """There the body has to have one."""
    status, answer = post("/embeddings", {"input": "a"})
    assert (status, answer["error"]["param"]) == (400, "model")
    assert post("/embeddings", {"model": "one", "input": "a"})[0] == 200


@pytest.mark.parametrize("path", ["/v1/embeddings/embeddings", "/api/embeddings", "/v1/completions", "/"])
def test_an_unknown_path(post, path):
    """The error says which paths there are."""
    status, answer = post(path, {"model": "one", "input": "a"})
    assert status == 404
    assert "/v1/embeddings" in answer["error"]["message"]
    assert "/v1/models" in answer["error"]["message"]
