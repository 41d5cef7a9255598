"""What conftests share: a time limit for each test, hypothesis without one, asyncio, the test's own process."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.processes import children_of

TEST_SECONDS_MAX = 120

# nothing here judges time: the machine may be busy with something else
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def _bounded(item):
    """Fail a test that hangs, instead of hanging with it."""

    def fail(*_):
        raise AssertionError(f"{item.name} hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(TEST_SECONDS_MAX)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


pytest_runtest_call = pytest.hookimpl(wrapper=True)(_bounded)
pytest_runtest_teardown = pytest.hookimpl(wrapper=True)(_bounded)


@pytest.fixture
def anyio_backend():
    """Run the tests that are marked ``anyio`` on asyncio."""
    return "asyncio"


@pytest.fixture
def own_child():
    """Return a function that returns the process that the test started, or ``None``; never more than one."""
    before = set(children_of(os.getpid()))

    def child():
        children = [pid for pid in children_of(os.getpid()) if pid not in before]
        assert len(children) <= 1
        return children[0] if children else None

    return child
