"""The API's description: schemas from the wire structs themselves, and pages that need no internet.

Litestar describes the routes; what it cannot know (a body that is decoded by hand) is said here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
from litestar import Litestar
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import (
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)
from litestar.static_files import create_static_files_router

from embeddings_gateway.http.deadline import NAME as TIMEOUT
from embeddings_gateway.http.encode import EmbeddingResponse
from embeddings_gateway.http.status import TABLE
from embeddings_gateway.http.wire import EmbeddingRequest, ErrorBody

DOCS = "/docs"
ASSETS = "/docs/assets"
STRUCTS = (EmbeddingRequest, EmbeddingResponse, ErrorBody)
HEADERS = {
    TIMEOUT: (
        "Milliseconds in which it has to be done, from its arrival on; no more than the gateway gives.",
        Schema(type=OpenAPIType.INTEGER, minimum=1),
    ),
    "x-expected-space": (
        "The fingerprint of the embedding space that the vectors have to live in.",
        Schema(type=OpenAPIType.STRING),
    ),
    "x-request-id": ("The request's id, if it is a sane one.", Schema(type=OpenAPIType.STRING)),
}

ANSWER_HEADERS = {
    "x-request-id": "The request's id: the client's own, or one of the gateway's.",
    "openai-processing-ms": "How long it took, in milliseconds.",
    "server-timing": "How long each phase took: tokenize, queue, infer, encode.",
    "x-embedding-space": "The fingerprint of the space that the vectors live in.",
    "x-prompt": "The name of the model's prompt that went before the texts, if one did.",
    "x-truncated-inputs": "The inputs that were cut, such as 0,3-5; it ends in ... if they are too many.",
    "x-averaged-inputs": "The inputs whose vectors are averages of several windows, in the same form.",
}


def _errors() -> dict[int, str]:
    """Return what each status means: what the errors that have it say of themselves."""
    meanings: dict[int, list[str]] = {}
    for error, told in TABLE.items():
        meanings.setdefault(told.http, []).append((error.__doc__ or "").partition("\n")[0])
    return {http: " ".join(says) for http, says in sorted(meanings.items())}


ERRORS = _errors()


def _content(struct: type[msgspec.Struct]) -> dict[str, OpenAPIMediaType]:
    reference = {"$ref": f"#/components/schemas/{struct.__name__}"}
    return {"application/json": OpenAPIMediaType(schema=cast(Any, reference))}


@dataclass
class EmbeddingsOperation(Operation):
    """``POST /v1/embeddings``, with the body and the answers that its handler decodes and encodes by hand."""

    def __post_init__(self) -> None:
        self.parameters = [
            Parameter(name=name, param_in="header", description=says, required=False, schema=schema)
            for name, (says, schema) in HEADERS.items()
        ]
        self.request_body = RequestBody(required=True, content=_content(EmbeddingRequest))
        success = OpenAPIResponse(
            "One entry for each input, in order.",
            headers={
                name: OpenAPIHeader(description=says, schema=Schema(type=OpenAPIType.STRING))
                for name, says in ANSWER_HEADERS.items()
            },
            content=_content(EmbeddingResponse),
        )
        self.responses = {"200": success}
        for code, says in ERRORS.items():
            self.responses[str(code)] = OpenAPIResponse(says, content=_content(ErrorBody))


@dataclass
class ModelOperation(Operation):
    """``GET /v1/models/{id}``: there is nothing in it to be invalid, only a name to be unknown."""

    def __post_init__(self) -> None:
        unknown = OpenAPIResponse(ERRORS[404], content=_content(ErrorBody))
        self.responses = {code: told for code, told in (self.responses or {}).items() if code != "400"}
        self.responses["404"] = unknown


def openapi_config() -> OpenAPIConfig:
    """Return how the API is described and where the pages are."""
    return OpenAPIConfig(
        title="embeddings-gateway",
        version=importlib.metadata.version("embeddings-gateway"),
        description="OpenAI-compatible embeddings from Hugging Face and GGUF models.",
        path=DOCS,
        render_plugins=[
            SwaggerRenderPlugin(
                path="/",
                js_url=f"{ASSETS}/swagger-ui-bundle.js",
                css_url=f"{ASSETS}/swagger-ui.css",
                standalone_preset_js_url=f"{ASSETS}/swagger-ui-standalone-preset.js",
                favicon=f"<link rel='icon' type='image/png' href='{ASSETS}/favicon-32x32.png'>",
            )
        ],
    )


def describe(app: Litestar) -> None:
    """Add the schemas that the operations refer to; Litestar keeps only those that it finds by itself."""
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    components = app.openapi_schema.components
    components.schemas = {**(components.schemas or {}), **cast(Any, schemas)}


def assets_route() -> Any:
    """Serve Swagger UI's own files, from the package that carries them."""
    package = importlib.util.find_spec("flask_swagger_ui")  # for its files: neither it nor flask is imported
    if package is None or package.origin is None:
        raise ModuleNotFoundError("flask_swagger_ui", name="flask_swagger_ui")
    directory = Path(package.origin).parent / "dist"
    return create_static_files_router(path=ASSETS, directories=[directory], include_in_schema=False)
