"""The names of models, and what they stand for."""

from __future__ import annotations

import pytest

from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.config import Config, ModelConfig, ServerConfig, ServingConfig
from embeddings_gateway.errors import InvalidRequest, ModelNotFound, ModelUnavailable
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Registry

pytestmark = pytest.mark.anyio


@pytest.fixture
async def registry():
    """Return two models that are not loaded."""
    models = {
        "first": ModelConfig(spec=FakeSpec(), serving=ServingConfig(aliases=("one", "a@query"))),
        "second": ModelConfig(spec=FakeSpec()),
    }
    return Registry(Config(server=ServerConfig(), models=models, source="a test"), Metrics())


async def test_names(registry):
    """A model is found by its name and its aliases, and never another one instead."""
    assert [served.name for served in registry.models] == ["first", "second"]
    assert registry.find("one").served is registry.find("first").served is registry.models[0]
    for name in ("third", "", "First", "first@", "third@query", "first@passage"):
        with pytest.raises(ModelNotFound) as refusal:
            registry.find(name)
        assert refusal.value.param == "model"


@pytest.mark.parametrize(
    ("name", "requested", "expected"),
    [
        ("first", None, None),
        ("first", "query", "query"),
        ("one@query", None, "query"),
        ("first@document", "document", "document"),
    ],
)
async def test_input_type(registry, name, requested, expected):
    """A name may end in an input type, which the request may repeat."""
    named = registry.find(name)
    assert named.served is registry.models[0]
    assert named.resolve_input_type(requested) == expected


async def test_input_types_that_disagree(registry):
    """A request that says another input type than its model's name is refused by field."""
    with pytest.raises(InvalidRequest) as refusal:
        registry.find("first@query").resolve_input_type("document")
    assert refusal.value.param == "input_type"


async def test_draining(registry):
    """A gateway that is stopping lets no request in."""
    registry.refuse_if_draining()
    registry.draining = True
    with pytest.raises(ModelUnavailable) as refusal:
        registry.refuse_if_draining()
    assert refusal.value.retry_after


async def test_loading():
    """On entry all models begin to load; on exit all have stopped."""
    models = {name: ModelConfig(spec=FakeSpec()) for name in ("first", "second")}
    async with Registry(Config(server=ServerConfig(), models=models, source="a test"), Metrics()) as registry:
        await registry.first_attempt()
        assert [served.state for served in registry.models] == ["ready"] * 2
    assert [served.state for served in registry.models] == ["stopped"] * 2
