"""The composition root of the HTTP side: everything is built here from a configuration and handed over."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp

from embeddings_gateway.config import Config
from embeddings_gateway.errors import ClientGone, GatewayError
from embeddings_gateway.http import status
from embeddings_gateway.http.documents import assets_route, describe, openapi_config
from embeddings_gateway.http.embeddings import Embeddings, embeddings_route, shortcut
from embeddings_gateway.http.envelope import CLIENT_GONE, RECORD, Envelope
from embeddings_gateway.http.health import health_routes
from embeddings_gateway.http.models import model_routes
from embeddings_gateway.http.record import Record
from embeddings_gateway.log import get_logger
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Registry

log = get_logger()


def create_app(config: Config, registry: Registry, metrics: Metrics) -> ASGIApp:
    """Return the gateway as an ASGI application; its lifespan starts and ends the models' workers."""
    embeddings = Embeddings(registry, config.server)
    return Envelope(shortcut(embeddings, create_litestar(embeddings, registry, metrics)), metrics)


def create_litestar(embeddings: Embeddings, registry: Registry, metrics: Metrics) -> Litestar:
    """Return the routes, without what stands round every answer."""

    @contextlib.asynccontextmanager
    async def models_loaded(_: Litestar) -> AsyncIterator[None]:
        async with registry:
            yield

    app = Litestar(
        route_handlers=[
            embeddings_route(embeddings),
            *model_routes(registry),
            *health_routes(registry, metrics),
            assets_route(),
        ],
        exception_handlers={Exception: tell},
        lifespan=[models_loaded],
        openapi_config=openapi_config(),
        request_max_body_size=None,  # the one bound is ``server.max_body_bytes``
        logging_config=None,
    )
    describe(app)
    return app


def tell(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a request that ended with an exception."""
    if isinstance(error, ClientGone):
        return Response(b"", status_code=CLIENT_GONE)
    if not isinstance(error, GatewayError | HTTPException):
        log.error("request failed", exc_info=error)
    told = status.answer(error)
    record: Record = request.scope[RECORD]  # type: ignore[literal-required]
    record.code = told.code
    return Response(told.body, status_code=told.status, headers=told.headers, media_type=MediaType.JSON)
