"""The pages that describe the API, on a machine without internet."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import httpx
import pytest


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_pages_need_no_internet_and_no_prefix(server, path):
    """Everything that ``/docs`` refers to comes from the gateway itself, whatever a proxy puts before its path."""
    page = httpx.get(server.url + path)
    assert page.status_code == 200
    links = re.findall(r"(?:src=|href=|url: )['\"]([^'\"]+)", page.text)
    assert len(links) == 4
    for link in links:
        assert link.startswith(("docs/" if path == "/docs" else "", "data:"))
        assert link[0] != "/"
        assert link.startswith("data:") or httpx.get(urljoin(str(page.url), link)).status_code == 200


def test_the_server_of_the_description(server):
    """The document names its server relative to itself."""
    url = "http://proxy/some/prefix/docs/openapi.json"
    (named,) = httpx.get(f"{server.url}/docs/openapi.json").json()["servers"]
    assert urljoin(url, named["url"]) == "http://proxy/some/prefix/"


def test_heads(server):
    """Whatever can be asked for can be asked for without its body, with the same status and length."""
    with httpx.Client(base_url=server.url) as client:
        for path in (
            "/v1/models",
            "/v1/models/fake",
            "/v1/models/none",
            "/docs",
            "/docs/openapi.json",
            "/nothing",
        ):
            whole, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (whole.status_code, b"")
            for name in ("content-length", "content-type"):
                assert head.headers[name] == whole.headers[name]
        assert client.head("/metrics").status_code == 200
        assert client.head("/v1/embeddings").status_code == 405


def test_the_description_has_what_the_handlers_decode_by_hand(server):
    """The document has the request, the response and the error, as the wire structs define them."""
    document = httpx.get(f"{server.url}/docs/openapi.json").json()
    operation = document["paths"]["/v1/embeddings"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/EmbeddingRequest"}
    assert {"200", "400", "404", "412", "413", "415", "429", "500", "503", "504"} <= operation[
        "responses"
    ].keys()
    schemas = document["components"]["schemas"]
    assert schemas["EmbeddingRequest"]["required"] == ["model", "input"]
    assert {"EmbeddingResponse", "ErrorBody", "ModelCard"} <= schemas.keys()
