"""Searches for failing inputs take a small share of a worker's time, and a single one need not wait."""

from __future__ import annotations

import pytest

from embeddings_gateway.workers.local.search_share import SAVED_S_MAX, SHARE, SearchShare


def test_a_single_search_does_not_wait():
    """As long as what was saved lasts, no step waits."""
    share = SearchShare(0)
    for _ in range(10):
        share.charge(SAVED_S_MAX / 10, 0)
        assert share.wait_s(0) == 0


def test_long_run():
    """Over a long time searches get their share, whatever a step costs."""
    share, now, spent = SearchShare(0), 0.0, 0.0
    while now < 100_000:
        now += share.wait_s(now)
        share.charge(7, now)
        spent += 7
        now += 7
    assert spent / now == pytest.approx(SHARE, abs=0.001)


def test_saved_time_is_bounded():
    """After a long time without a search, only so much was saved."""
    share = SearchShare(0)
    share.charge(SAVED_S_MAX + 1, 1e6)
    assert share.wait_s(1e6) == pytest.approx(1 / SHARE)


def test_slow_restarts():
    """For a worker that takes long to start, one search still runs without a pause."""
    share = SearchShare(0)
    share.restart_takes(60)
    for _ in range(24):
        share.charge(60, 0)
        assert share.wait_s(0) == 0
    share.restart_takes(1)
    share.charge(1, 0)
    assert share.wait_s(0) == pytest.approx(1 / SHARE)
