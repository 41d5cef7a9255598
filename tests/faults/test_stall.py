"""A worker that stands still: it is noticed and ended, and what it was computing is computed again."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tests.faults.asking import answers
from tests.faults.load import Load
from tests.faults.models import FULL_SIZE, fault
from tests.faults.truth import Computed, vectors_of
from tests.faults.watch import metric, starts, workers
from tests.processes import Watch
from tests.server import eventually, serving

TRUTH = Computed("model")
HEARTBEAT_S = 10
"""Within about so long a process that stands still is noticed, whatever a batch may take."""
HANG_S = 1
KILLS = 4
"""Of more in a minute the breaker makes refusals, which ``test_kills`` is about."""


@pytest.fixture
def limit(full_size) -> dict[str, float]:
    """Return what a model is told of its patience: nothing at full size, else that it has little."""
    return {} if full_size else {"hang_timeout_s": HANG_S}


def test_stopped_under_load(tmp_path, full_size, tell, limit):
    """Requests that are in a worker when it is stopped get their right vectors; no client sees an error."""
    with serving(tmp_path, fault("model", seconds_per_token=2e-4, **limit)) as server:
        load = Load(server, TRUTH)
        stopped = asyncio.run(stopping(server, load, kills=KILLS if full_size else 1))
        assert starts(server, "model") == len(stopped)
        assert not load.refused
        noticed_s = max(load.recovered(at) for at in stopped)
        tell(noticed_s_max=noticed_s, answers=len(load.right))
        if full_size:
            assert noticed_s <= HEARTBEAT_S + 2


async def stopping(server, load, kills) -> list[float]:
    """Stop the worker while it computes; return when, in monotonic seconds."""
    stopped = []
    async with load.clients(8):
        for _ in range(kills):
            await load.more(20)
            (worker,) = workers(server)
            os.kill(worker, signal.SIGSTOP)
            stopped.append(time.monotonic())
            await load.more(20)
    return stopped


@FULL_SIZE
def test_stopped_while_idle(tmp_path, tell, limit):
    """A worker that is stopped while it is idle is replaced, and a request meanwhile is answered."""
    with serving(tmp_path, fault("model", **limit)) as server:
        (worker,) = workers(server)
        watch = Watch(worker)
        os.kill(worker, signal.SIGSTOP)
        texts = TRUTH.texts(0, 3)
        (reply,) = answers(server, "model", texts)
        tell(seconds=reply.seconds)
        assert reply.status == 200, reply.body
        assert TRUTH.right(texts, vectors_of(reply))
        assert watch.ended()
        assert reply.seconds <= HEARTBEAT_S + 2


def test_stopped_unnoticed_by_clients(tmp_path, limit):
    """A worker that is stopped is replaced although no request uses it."""
    with serving(tmp_path, fault("model", **limit)) as server:
        (worker,) = workers(server)
        watch = Watch(worker)
        os.kill(worker, signal.SIGSTOP)
        assert watch.ended()
        eventually(lambda: metric(server, "workers_ready", model="model") == 1)
        assert len(workers(server)) == 1
