"""The pages that describe the API, on a machine without internet."""

from __future__ import annotations

import re

import httpx


def test_the_pages_need_no_internet(server):
    """Everything that ``/docs`` refers to comes from the gateway itself."""
    page = httpx.get(f"{server.url}/docs")
    assert page.status_code == 200
    links = re.findall(r"(?:src|href)=['\"]([^'\"]+)", page.text)
    assert links
    for link in links:
        assert link.startswith(("/docs/assets/", "data:"))
        assert link.startswith("data:") or httpx.get(server.url + link).status_code == 200


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
