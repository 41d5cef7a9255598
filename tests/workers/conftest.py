"""What these tests share: an event loop, metrics, a time limit for each test, the test's own process."""

from __future__ import annotations

import pytest

from embeddings_gateway.metrics import Metrics
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
