"""The description of the API, from the wire structs, with pages that need no internet.

Litestar describes the routes. This file adds the bodies and headers that handlers decode themselves.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import (
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
    Server,
)
from litestar.params import FromPath

from embeddings_gateway.api.encode import EmbeddingResponse
from embeddings_gateway.api.errors import TABLE, ErrorBody
from embeddings_gateway.api.schemas import TIMEOUT_HEADER, EmbeddingRequest
from embeddings_gateway.server.asgi import REQUEST
from embeddings_gateway.server.request import Request as ServerRequest

DOCS = "/docs"
ASSETS = "/docs/assets"
ASSET_TYPES = {
    "swagger_bundle.js": "text/javascript",
    "swagger_style.css": "text/css",
}
PAGE = """<!DOCTYPE html>
<html>
  <head>
    <title>{title}</title>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="{folder}assets/swagger_style.css">
    <script src="{folder}assets/swagger_bundle.js"></script>
  </head>
  <body>
    <div id="description"></div>
    <script>
      SwaggerUIBundle({{url: "{folder}openapi.json", dom_id: "#description", deepLinking: true}});
    </script>
  </body>
</html>
"""
STRUCTS = (EmbeddingRequest, EmbeddingResponse, ErrorBody)
HEADERS = {
    TIMEOUT_HEADER: (
        "Milliseconds until the request has to be answered, from its arrival on; the gateway's own limit also applies.",
        Schema(type=OpenAPIType.INTEGER, minimum=1),
    ),
    "x-expected-space": (
        "The fingerprint of the embedding space that the client expects.",
        Schema(type=OpenAPIType.STRING),
    ),
    "x-request-id": (
        "The request's id: 1 to 128 letters, digits, _, ., : or -.",
        Schema(type=OpenAPIType.STRING),
    ),
}

RESPONSE_HEADERS = {
    "x-request-id": "The request's id: the client's own, or one of the gateway's.",
    "openai-processing-ms": "Duration of the request in milliseconds.",
    "server-timing": "Duration of each phase: tokenize, queue, infer, encode.",
    "x-embedding-space": "The fingerprint of the embedding space of the vectors.",
    "x-prompt": "The name of the model's prompt that was put before the texts, if one was.",
    "x-truncated-inputs": "The inputs that were cut, such as 0,3-5; it ends in ... if there are too many.",
    "x-averaged-inputs": "The inputs whose vectors are averages of several windows, in the same form.",
}


def _errors() -> dict[int, str]:
    """Return status -> its meaning: the docstrings of its errors."""
    meanings: dict[int, list[str]] = {}
    for error, status in TABLE.items():
        meanings.setdefault(status.http, []).append((error.__doc__ or "").partition("\n")[0])
    return {http: " ".join(sentences) for http, sentences in sorted(meanings.items())}


ERRORS = _errors()


def _content(struct: type[msgspec.Struct]) -> dict[str, OpenAPIMediaType]:
    reference = {"$ref": f"#/components/schemas/{struct.__name__}"}
    return {"application/json": OpenAPIMediaType(schema=cast(Any, reference))}


@dataclass
class EmbeddingsOperation(Operation):
    """``POST /v1/embeddings``, with the bodies that its handler decodes and encodes itself."""

    def __post_init__(self) -> None:
        self.parameters = [
            Parameter(name=name, param_in="header", description=description, required=False, schema=schema)
            for name, (description, schema) in HEADERS.items()
        ]
        self.request_body = RequestBody(required=True, content=_content(EmbeddingRequest))
        success = OpenAPIResponse(
            "One entry for each input, in order.",
            headers={
                name: OpenAPIHeader(description=description, schema=Schema(type=OpenAPIType.STRING))
                for name, description in RESPONSE_HEADERS.items()
            },
            content=_content(EmbeddingResponse),
        )
        errors = {
            str(status): OpenAPIResponse(meaning, content=_content(ErrorBody))
            for status, meaning in ERRORS.items()
        }
        self.responses = {"200": success, **errors}


@dataclass
class ModelOperation(Operation):
    """``GET /v1/models/{id}``: the name may be unknown, but the request cannot be invalid."""

    def __post_init__(self) -> None:
        self.responses = {**(self.responses or {})}
        self.responses.pop("400", None)
        self.responses["404"] = OpenAPIResponse(ERRORS[404], content=_content(ErrorBody))


class Page(OpenAPIRenderPlugin):
    """The page at ``/docs``. Its links are relative, since a proxy may put anything before its path."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the page. Litestar adds the document that it shows, ``/docs/openapi.json``."""
        sent: ServerRequest = request.scope[REQUEST]  # type: ignore[literal-required]
        folder = "" if sent.head.raw_path.endswith(b"/") else f"{DOCS.rpartition('/')[2]}/"
        return PAGE.format(title=openapi_schema["info"]["title"], folder=folder).encode()


def openapi_config() -> OpenAPIConfig:
    """Return the description's settings."""
    return OpenAPIConfig(
        title="embeddings-gateway",
        version=importlib.metadata.version("embeddings-gateway"),
        description="OpenAI-compatible embeddings from Hugging Face and GGUF models.",
        servers=[Server(url="..")],  # relative to the document, whatever a proxy puts before its path
        path=DOCS,
        render_plugins=[Page(path="/")],
    )


def add_schemas(app: Litestar) -> None:
    """Add the schemas of the operations above, which Litestar does not find by itself."""
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    components = app.openapi_schema.components
    components.schemas = {**(components.schemas or {}), **cast(Any, schemas)}


def assets_route() -> HTTPRouteHandler:
    """Return the handler for the files of Swagger UI, which the package ``offapi`` contains."""
    package = importlib.util.find_spec("offapi")  # it is not imported
    if package is None or package.origin is None:
        raise ModuleNotFoundError("offapi", name="offapi")
    directory = Path(package.origin).parent

    @get(f"{ASSETS}/{{name:str}}", include_in_schema=False, sync_to_thread=True)
    def read_asset(name: FromPath[str]) -> Response[bytes]:
        """Return a file of Swagger UI."""
        if name not in ASSET_TYPES:
            raise NotFoundException
        return Response((directory / name).read_bytes(), media_type=ASSET_TYPES[name])

    return read_asset
