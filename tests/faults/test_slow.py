"""Clients that are slow on purpose: each is done with at its deadline, and the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import time

from tests.faults.figures import p99
from tests.faults.load import Load
from tests.faults.models import FULL_SIZE, fault
from tests.faults.slow import KINDS, Slow
from tests.faults.truth import Computed
from tests.faults.watch import clients_of
from tests.server import WAIT_S, serving

SLACK_S = 1.0
LOOK_S = 0.25


pytestmark = FULL_SIZE
EACH = 40
"""Slow clients of each kind."""
DEADLINES_S = {"head": 10, "body": 30, "send": 30, "idle": 75}
BASELINE_S = 30


def config() -> str:
    """Return the configuration of the gateway; of its answers one is larger than all buffers on its way."""
    server = "\n".join(f"{name}_timeout_s = {seconds}" for name, seconds in DEADLINES_S.items())
    return f"[server]\n{server}\n" + fault("model", seconds_per_token=2e-5) + fault("large", width=1024)


def test_slow_clients(tmp_path, tell):
    """Who sends or reads a byte now and then, or nothing, is closed in time; answers to others are right."""
    with serving(tmp_path, config()) as server:
        load = Load(server, Computed("model"))
        slow = [Slow(server, kind) for kind in KINDS for _ in range(EACH)]
        baseline_s, disturbed_s = asyncio.run(besieged(server, load, slow))
        open_s = {
            kind.name: max(each.closed - each.began for each in slow if each.kind is kind) for kind in KINDS
        }
        ratio = p99(disturbed_s) / p99(baseline_s)
        tell(
            others_p99_ms=1000 * p99(baseline_s), ratio=ratio, **{f"{k}_s_max": v for k, v in open_s.items()}
        )
        for each in slow:
            each.check()
        assert ratio <= 2
        for kind in KINDS:
            assert open_s[kind.name] <= DEADLINES_S[kind.deadline] + SLACK_S + LOOK_S, kind.name


async def besieged(server, load, slow) -> tuple[list[float], list[float]]:
    """Return how long others' answers took before there were slow clients, and while there were."""
    async with load.clients(8):
        await load.more(50)
        await asyncio.sleep(BASELINE_S)
        baseline_s, began = load.seconds(), time.monotonic()
        tasks = [asyncio.create_task(each.run()) for each in slow]
        await closing(server, slow)
        disturbed_s = load.seconds(since=began)
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await load.more(50)
    return baseline_s, disturbed_s


async def closing(server, slow) -> None:
    """Note when the gateway has closed each connection, until it has closed all."""
    seen: set[int] = set()
    async with asyncio.timeout(WAIT_S):
        while left := [each for each in slow if not each.closed]:
            looked = time.monotonic()
            there = await asyncio.to_thread(clients_of, server)
            seen |= there
            for each in left:
                if each.began and each.port in seen - there:
                    each.closed = looked
            await asyncio.sleep(LOOK_S)
