"""The composition root of the HTTP side: builds everything from a configuration."""

from __future__ import annotations

from typing import Any, cast

from litestar import Litestar, Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException

from embeddings_gateway.api.embeddings import Embeddings, embeddings_route
from embeddings_gateway.api.errors import error_response
from embeddings_gateway.api.health import health_routes
from embeddings_gateway.api.middleware import CLIENT_GONE, LOG, Middleware, RequestLog
from embeddings_gateway.api.models import model_routes
from embeddings_gateway.api.openapi import add_schemas, assets_route, openapi_config
from embeddings_gateway.api.paths import EMBEDDINGS
from embeddings_gateway.config import Config
from embeddings_gateway.config_file import read_config
from embeddings_gateway.errors import ClientGone, GatewayError
from embeddings_gateway.log import get_logger
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.server.asgi import ASGIApp
from embeddings_gateway.serving.registry import Registry

log = get_logger()


def create_app(config: Config, registry: Registry, metrics: Metrics) -> Middleware:
    """Return the application that a server calls. The caller starts and stops the registry."""
    embeddings = Embeddings(registry, config.server)
    litestar = create_litestar(registry, metrics)
    handlers = {("POST", EMBEDDINGS): embeddings}
    return Middleware(cast(ASGIApp, litestar), handlers, metrics, config.server)


def create_litestar(registry: Registry, metrics: Metrics) -> Litestar:
    """Return the routes, without the middleware."""
    app = Litestar(
        route_handlers=[
            embeddings_route(),
            *model_routes(registry),
            *health_routes(registry, metrics),
            assets_route(),
        ],
        exception_handlers={Exception: respond_error},
        openapi_config=openapi_config(),
        request_max_body_size=None,  # ``server.max_body_bytes`` is the one limit
        logging_config=None,
    )
    add_schemas(app)
    return app


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document. It does not depend on the configuration."""
    config, metrics = read_config(None), Metrics()
    registry = Registry(config, metrics)
    litestar = create_litestar(registry, metrics)
    return litestar.openapi_schema.to_schema()


def respond_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return the response to a request that ended with an exception."""
    if isinstance(error, ClientGone):
        return Response(b"", status_code=CLIENT_GONE)
    if not isinstance(error, GatewayError | HTTPException):
        log.error("request failed", exc_info=error)
    response = error_response(error)
    request_log: RequestLog = request.scope[LOG]  # type: ignore[literal-required]
    request_log.code = response.code
    return Response(
        response.body, status_code=response.status, headers=response.headers, media_type=MediaType.JSON
    )
