"""What a browser is told about pages of other origins."""

from __future__ import annotations

import httpx
import pytest

from embeddings_gateway.api.cors import Cors
from tests.connection import Connection
from tests.server import serving

PAGE = "http://localhost:3000"
ASKED = "authorization,content-type,x-stainless-retry-count"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": ASKED}
ORIGIN, VARY = "access-control-allow-origin", "vary"
CONFIG = """
[server]
cors_origins = ["http://localhost:3000", "app://obsidian.md"]

[models.m]
backend = "fake"
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Return a client of a gateway that lets two origins call."""
    with (
        serving(tmp_path_factory.mktemp("cors"), CONFIG) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        yield client


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/v1/models", "/nothing"])
def test_a_preflight(client, path):
    """A browser that asks whether a page may send a request hears that it may, with the headers that it names."""
    for origin in (PAGE, "app://obsidian.md"):
        answer = client.options(path, headers={"origin": origin, **PREFLIGHT})
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers[ORIGIN] == origin
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == ASKED
        assert answer.headers[VARY] == "origin"
        assert "access-control-allow-private-network" not in answer.headers
        assert "content-length" not in answer.headers


def test_a_preflight_for_a_private_network(client):
    """A page of the internet that asks for a gateway in a private network may call it, if it may call at all."""
    headers = {**PREFLIGHT, "access-control-request-private-network": "true"}
    answer = client.options("/v1/embeddings", headers={"origin": PAGE, **headers})
    assert answer.headers["access-control-allow-private-network"] == "true"
    answer = client.options("/v1/embeddings", headers={"origin": "https://evil.example", **headers})
    assert "access-control-allow-private-network" not in answer.headers


@pytest.mark.parametrize(
    ("body", "status"),
    [({"model": "m", "input": "a"}, 200), ({"model": "none", "input": "a"}, 404), ({}, 400)],
)
def test_responses(client, body, status):
    """The page may read every response, errors too, and the headers that the gateway adds; never with credentials."""
    answer = client.post("/v1/embeddings", json=body, headers={"origin": PAGE})
    assert (answer.status_code, answer.headers[ORIGIN], answer.headers[VARY]) == (status, PAGE, "origin")
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "x-embedding-space", "x-truncated-inputs", "retry-after"} <= set(exposed)
    assert "access-control-allow-credentials" not in answer.headers


def test_other_origins(client):
    """Pages of other origins, and requests without an origin, get no permission, and caches tell them apart."""
    for headers in ({"origin": "http://localhost:3001"}, {"origin": "null"}, {"origin": f"{PAGE}/"}, {}):
        for answer in (
            client.options("/v1/embeddings", headers={**headers, **PREFLIGHT}),
            client.get("/v1/models", headers=headers),
            client.get("/nothing", headers=headers),
        ):
            assert ORIGIN not in answer.headers
            assert "access-control-allow-methods" not in answer.headers
            assert answer.headers[VARY] == "origin"


def test_preflights_are_not_counted(client):
    """They are not among the requests for embeddings."""
    client.options("/v1/embeddings", headers={"origin": PAGE, **PREFLIGHT})
    assert 'status="204"' not in client.get("/metrics").text


def test_any_origin(tmp_path):
    """With ``*`` every page may call, and may read what answers no request."""
    with serving(tmp_path, CONFIG.replace("http://localhost:3000", "*")) as server:
        answer = httpx.get(f"{server.url}/v1/models")
        assert (answer.headers[ORIGIN], answer.headers.get(VARY)) == ("*", None)
        answer = httpx.options(f"{server.url}/v1/embeddings", headers={"origin": "null", **PREFLIGHT})
        assert answer.headers[ORIGIN] == "*"
        assert answer.headers["access-control-allow-headers"] == ASKED
        with Connection(server.url) as client:
            client.send(b"hello\r\n\r\n")
            assert client.receive()[1][ORIGIN] == "*"


def test_without_the_setting():
    """There are no header lines, and a preflight is answered as any other OPTIONS."""
    cors, fields = Cors(()), {b"origin": PAGE.encode(), b"access-control-request-method": b"POST"}
    assert cors.lines(fields) == b""
    assert cors.preflight("OPTIONS", fields) == b""


def test_names_that_are_none():
    """What cannot be a list of header names is not repeated in a response."""
    fields = {b"access-control-request-method": b"POST", b"access-control-request-headers": b"a: b"}
    assert b"a: b" not in Cors(["*"]).preflight("OPTIONS", fields)
