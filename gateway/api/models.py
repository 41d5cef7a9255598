"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from embeddings_gateway.api.openapi import ModelOperation
from embeddings_gateway.serving.registry import Registry
from embeddings_gateway.serving.served import Served


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="model"):
    """OpenAI's fields, and facts to choose by. The facts are null until the model is loaded."""

    id: str
    created: int
    owned_by: str
    aliases: tuple[str, ...]
    state: str
    backend: str
    dimensions: int | None = None
    supported_dimensions: tuple[int, ...] | None = None
    default_dimensions: int | None = None
    max_tokens: int | None = None
    pooling: str | None = None
    normalized: bool | None = None
    prompts: tuple[str, ...] | None = None
    default_prompt: str | None = None
    dtype: str | None = None
    device: str | None = None
    runtime: str | None = None
    fingerprint: str | None = None


FACTS = [field.name for field in msgspec.structs.fields(ModelCard) if not field.required]


class ModelList(msgspec.Struct, frozen=True, tag_field="object", tag="list"):
    """The served models."""

    data: list[ModelCard]


def model_routes(registry: Registry) -> list[HTTPRouteHandler]:
    """Return the handlers."""

    @get("/v1/models", sync_to_thread=False)
    def list_models() -> ModelList:
        """List the served models."""
        return ModelList([card(model) for model in registry.models])

    @get("/v1/models/{model_id:path}", operation_class=ModelOperation, sync_to_thread=False)
    def retrieve_model(model_id: FromPath[str]) -> ModelCard:
        """Describe a model by its name or an alias, which may end in an input type."""
        return card(registry.find(model_id.removeprefix("/")).served)

    return [list_models, retrieve_model]


def card(model: Served) -> ModelCard:
    """Return what ``/v1/models`` says about a model."""
    info = model.info
    facts = {} if info is None else {key: getattr(info, key) for key in FACTS}
    if info is not None:
        facts["prompts"] = tuple(info.prompts)  # only their names: the texts belong to the operator
    return ModelCard(
        id=model.name,
        created=0 if info is None else info.created,
        owned_by="embeddings-gateway",
        aliases=tuple(model.aliases),
        state=model.state,
        backend=model.backend,
        **facts,
    )
