"""Hypothesis judges no time here, and no test hangs."""

from __future__ import annotations

from tests.bounded import pytest_runtest_call, pytest_runtest_teardown  # noqa: F401 - pytest finds them here
