"""``/livez``, ``/readyz``, ``/health`` and ``/metrics``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec

from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Registry
from embeddings_gateway.serving.served import Served

REASONS: Mapping[str, str] = {
    "searching": "its workers are looking for the input that makes them fail",
    "restarting": "its workers are restarting",
    "loading": "it is being loaded",
    "broken": "its workers fail again and again; the log says how",
    "failed": "it cannot be served; the log says why",
    "stopped": "it was stopped",
}
"""What anybody may know. The reasons in the log name files and quote libraries."""
NO_ANSWER = "its workers do not answer in time"


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
    if draining:
        return ModelHealth(False, model.state, "the gateway is stopping")
    is_ready = not await model.unready()
    return ModelHealth(is_ready, model.state, "" if is_ready else REASONS.get(model.state, NO_ANSWER))
