"""What the tests share: one event loop kind, metrics of their own, a configuration with the fake backend."""

from __future__ import annotations

import pytest

from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.config import ModelConfig, ServingConfig
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.local import LocalModel
from embeddings_gateway.serving.prepare.cl100k import Cl100k
from embeddings_gateway.workers.local.local_engines import local_engines
from tests.bounded import (  # noqa: F401 - pytest finds them here
    anyio_backend,
    own_child,
    pytest_runtest_call,
    pytest_runtest_teardown,
)


@pytest.fixture
def metrics():
    """Return metrics that no other test counts in."""
    return Metrics()


@pytest.fixture
def config_file(tmp_path):
    """Return a configuration file with one model, ``small``, on the fake backend."""
    path = tmp_path / "gateway.toml"
    path.write_text('[models.small]\nbackend = "fake"\naliases = ["little"]\n')
    return path


@pytest.fixture
async def start(metrics):
    """Return a function that makes a model, by default on the fake backend, and loads it in its workers."""
    started = []

    async def ready(spec=None, **serving):
        config = ModelConfig(spec=spec or FakeSpec(), serving=ServingConfig(**serving))
        model_metrics = metrics.model("m")
        engines = local_engines("m", config, model_metrics, None)
        model = LocalModel("m", config, engines, model_metrics, cl100k=Cl100k(), max_request_tokens=10_000)
        started.append(model)
        model.start()
        await model.first_attempt()
        return model

    yield ready
    for model in started:
        await model.stop()
