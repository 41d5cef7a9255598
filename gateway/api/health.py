"""``/livez``, ``/readyz``, ``/health`` and ``/metrics``."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec

from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Registry
from embeddings_gateway.serving.served import Served


class ModelHealth(msgspec.Struct, frozen=True):
    """Whether a model can take a request now; if not, the reason."""

    ready: bool
    state: str
    reason: str


class Health(msgspec.Struct, frozen=True):
    """Whether every model can take a request now."""

    status: Literal["ready", "unavailable"]
    models: dict[str, ModelHealth]


class Alive(msgspec.Struct, frozen=True):
    """The process responds."""

    status: Literal["alive"] = "alive"


def health_routes(registry: Registry, metrics: Metrics) -> list[HTTPRouteHandler]:
    """Return the handlers."""

    @get("/livez", sync_to_thread=False)
    def livez() -> Alive:
        """Tell that the gateway's process is alive. This says nothing about the models."""
        return Alive()

    not_ready = ResponseSpec(Health, description="A model cannot take a request. The body has the reason.")

    @get(["/readyz", "/health"], responses={503: not_ready})
    async def readyz() -> Response[Health]:
        """Ask the workers of every model whether they can take a request now; 503 if a model cannot.

        A gateway that is stopping is not ready.
        """
        healths = await asyncio.gather(*(health(model, registry.draining) for model in registry.models))
        models = {model.name: entry for model, entry in zip(registry.models, healths, strict=True)}
        is_ready = all(entry.ready for entry in healths)
        body = Health("ready" if is_ready else "unavailable", models)
        return Response(body, status_code=200 if is_ready else 503)

    @get("/metrics", media_type="text/plain; version=0.0.4", sync_to_thread=True)
    def prometheus() -> bytes:
        """Return all metrics in Prometheus' text format."""
        return metrics.expose()

    return [livez, readyz, prometheus]


async def health(model: Served, draining: bool) -> ModelHealth:
    """Ask the workers of a model whether they can take a request now."""
    problem = "the gateway is stopping" if draining else await model.unready()
    return ModelHealth(not problem, model.state, problem)
