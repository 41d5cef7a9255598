"""What the tests share: one event loop kind, metrics of their own, a configuration with the fake backend."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.config import ModelConfig, ServingConfig
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.cl100k import Cl100k
from embeddings_gateway.serving.model import Model
from tests.processes import children_of

TEST_SECONDS_MAX = 120

# nothing here judges time: the machine may be busy with something else
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def bounded(item):
    """Fail a test that waits for ever, instead of waiting with it."""

    def give_up(*_):
        raise AssertionError(f"{item.name} waits in vain")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TEST_SECONDS_MAX)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


pytest_runtest_call = pytest.hookimpl(wrapper=True)(bounded)
pytest_runtest_teardown = pytest.hookimpl(wrapper=True)(bounded)


@pytest.fixture
def anyio_backend():
    """Run the tests that are marked ``anyio`` on asyncio."""
    return "asyncio"


@pytest.fixture
def own_child():
    """Return a function that tells the process that the test started, or ``None``; never more than one."""
    before = set(children_of(os.getpid()))

    def one():
        children = [pid for pid in children_of(os.getpid()) if pid not in before]
        assert len(children) <= 1
        return children[0] if children else None

    return one


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
    """Return a function that makes a model, by default on the fake backend, and loads its replicas."""
    started = []

    async def ready(spec=None, **serving):
        config = ModelConfig(spec=spec or FakeSpec(), serving=ServingConfig(**serving))
        model = Model("m", config, metrics.model("m"), cl100k=Cl100k(), max_request_tokens=10_000)
        started.append(model)
        model.replicas.start()
        await model.replicas.attempted()
        return model

    yield ready
    for model in started:
        await model.replicas.stop()
