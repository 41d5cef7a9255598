"""What these tests share with the others of the gateway."""

from __future__ import annotations

from tests.gateway.conftest import (  # noqa: F401 - pytest finds them here
    anyio_backend,
    metrics,
    pytest_runtest_call,
    pytest_runtest_teardown,
)
