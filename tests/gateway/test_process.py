"""What a worker's process is started with."""

from __future__ import annotations

from typing import get_args

from embeddings_gateway.metrics import CAUSES
from embeddings_gateway.workers.process import Cause, environment


def test_waiting_threads_do_not_spin_for_long():
    """Unless the operator says otherwise, OpenMP's threads wait asleep, all but a moment."""
    settings = environment(3, {})
    assert settings["OMP_WAIT_POLICY"] == "PASSIVE"
    assert 0 < int(settings["GOMP_SPINCOUNT"]) < 1000
    assert settings["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in environment(None, {})


def test_a_worker_has_few_heaps():
    """Many heaps let memory creep; the operator may want another number."""
    assert environment(None, {})["MALLOC_ARENA_MAX"] == "2"
    assert environment(None, {"MALLOC_ARENA_MAX": "8"})["MALLOC_ARENA_MAX"] == "8"


def test_what_the_operator_sets_counts():
    """Settings of the gateway's own environment are handed on, and none of ours counts for more."""
    own = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "2", "HOME": "/nowhere"}
    settings = environment(3, own)
    assert settings | own == settings
    assert "GOMP_SPINCOUNT" not in settings
    assert environment(None, {"GOMP_SPINCOUNT": "9"})["GOMP_SPINCOUNT"] == "9"


def test_every_cause_is_counted():
    """Each way in which a worker can end has a count of its own."""
    assert set(CAUSES) == set(get_args(Cause))
