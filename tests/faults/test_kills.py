"""Workers killed again and again under load: nothing is lost, nothing is wrong, and others do not notice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import NamedTuple

import pytest

from tests.faults.figures import p99
from tests.faults.load import Load
from tests.faults.models import FULL_SIZE, fault, real, truth_of
from tests.faults.truth import Computed
from tests.faults.watch import metric, restarted, starts, workers
from tests.server import serving

CLIENTS, OTHERS = 16, 4


class Size(NamedTuple):
    """How long it goes: so many kills, each after a number of answers and a pause."""

    kills: int
    answers: int
    pause_s: float
    baseline_s: float


FULL = Size(120, 1, 5, 60)
SMALL = Size(2, 100, 0, 0)
VICTIMS = {"fault": lambda: fault("victim", seconds_per_token=2e-5), "real": lambda: real("victim")}
SIGNALS = (signal.SIGKILL, signal.SIGRTMIN + 1)
"""The second one has no name."""


@pytest.mark.parametrize("kind", ["fault", pytest.param("real", marks=FULL_SIZE)])
def test_kills_under_load(tmp_path, full_size, tell, kind):
    """Every request of 16 clients gets its right vectors, sooner or later, while workers are killed."""
    size = FULL if full_size else SMALL
    with serving(tmp_path, fault("other", seconds_per_token=2e-5) + VICTIMS[kind]()) as server:
        other_worker, first = workers(server)
        load_s = restarted(server, first)
        load = Load(server, truth_of(server, "victim"))
        others = Load(server, Computed("other"))
        done = metric(server, "inputs_total", model="victim")
        undisturbed_s, kills = asyncio.run(killing(server, load, others, other_worker, size))
        assert starts(server, "other") == 0
        assert starts(server, "victim") > size.kills
        assert metric(server, "inputs_total", model="victim") - done == 4 * len(load.right)
        recoveries = [load.recovered(at) for at in kills]
        ratio = p99(others.seconds(since=kills[0])) / p99(undisturbed_s)
        tell(
            answers=len(load.right),
            refused=dict(load.refused),
            load_s=load_s,
            recovery_s_max=max(recoveries),
            others_p99_ms=1000 * p99(undisturbed_s),
            ratio=ratio,
        )
        if full_size:
            assert max(recoveries) <= load_s + 1
            assert ratio <= 1.5


async def killing(server, load, others, spared, size) -> tuple[list[float], list[float]]:
    """Return how long the others' answers took without kills, and when there was one, by the clock."""
    kills = []
    async with load.clients(CLIENTS), others.clients(OTHERS):
        await load.more(size.answers)
        await asyncio.sleep(size.baseline_s)
        undisturbed_s = others.seconds()
        for number in range(size.kills):
            await asyncio.sleep(size.pause_s)
            for pid in set(workers(server)) - {spared}:
                os.kill(pid, SIGNALS[number % len(SIGNALS)])
            kills.append(time.monotonic())
            await load.more(size.answers)
    return undisturbed_s, kills
