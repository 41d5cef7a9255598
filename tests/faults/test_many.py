"""Thousands of inputs, and a worker that is killed while they are computed."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.faults.asking import ask
from tests.faults.models import FULL_SIZE, fault, real, truth_of
from tests.faults.truth import vectors_of
from tests.faults.watch import metric, starts, workers
from tests.server import WAIT_S, serving

COUNT, REQUEST = 5000, 2048
MODELS = {"fault": lambda: fault("model", seconds_per_token=1e-5), "real": lambda: real("model")}


@pytest.mark.parametrize("kind", ["fault", pytest.param("real", marks=FULL_SIZE)])
def test_5000_inputs(tmp_path, tell, kind):
    """5000 inputs in three requests give 5000 right vectors, although their worker is killed twice."""
    with serving(tmp_path, MODELS[kind]()) as server:
        truth = truth_of(server, "model", texts=COUNT)
        texts = truth.texts(0, COUNT)
        requests = [texts[at : at + REQUEST] for at in range(0, COUNT, REQUEST)]
        replies = asyncio.run(killed_twice(server, requests))
        for part, reply in zip(requests, replies, strict=True):
            assert reply.status == 200, reply.body[:200]
            assert len(vectors_of(reply)) == len(part)
            assert truth.right(part, vectors_of(reply))
        tell(vectors=COUNT, starts=starts(server, "model"), seconds=max(reply.seconds for reply in replies))
        assert starts(server, "model") == 2


async def killed_twice(server, requests):
    """Return the answers to requests whose worker is killed when a third and two thirds of them are done."""
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask(server, "model", texts, truncate="right")) for texts in requests]
        await waiting(server, lambda jobs: jobs > COUNT * 0.9)
        for part in (2 / 3, 1 / 3):
            await waiting(server, lambda jobs, part=part: jobs < COUNT * part)
            for worker in workers(server):
                os.kill(worker, signal.SIGKILL)
    return [task.result() for task in asking]


async def waiting(server, enough) -> None:
    """Wait until the number of jobs that wait for the model is as it should be."""
    async with asyncio.timeout(WAIT_S):
        while not enough(await asyncio.to_thread(metric, server, "queue_jobs", model="model")):
            await asyncio.sleep(0.005)
