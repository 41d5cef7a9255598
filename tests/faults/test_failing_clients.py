"""Clients that send nothing but texts that fail harm others no more than clients whose texts work."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter

import pytest

from tests.faults.connection import Connection, get, post
from tests.faults.models import FULL_SIZE, fault
from tests.faults.truth import Computed, vectors_of
from tests.server import serving

pytestmark = FULL_SIZE
SECONDS_PER_TOKEN = 2e-4
ATTACKERS = 2
ATTACK_S, PAUSE_S, PROBE_S = 60, 0.02, 0.05
TRUTH = Computed("model")


class Clients:
    """Two clients of which each text has a mark, a victim that asks now and then, and probes of readiness.

    Attributes:
        seconds: how long each answer of the victim took.
        readiness: how often each status of ``/readyz`` was seen.
        statuses: how often each status of the two clients was seen.
    """

    def __init__(self, server, mark):
        self.seconds, self.readiness, self.statuses = [], Counter(), Counter()
        self._server, self._mark, self._over = server, mark, False

    async def run(self, seconds):
        """Let them all ask for so long."""
        async with asyncio.TaskGroup() as tasks:
            for attacker in range(ATTACKERS):
                tasks.create_task(self._attack(attacker))
            tasks.create_task(self._probe())
            tasks.create_task(self._ask())
            await asyncio.sleep(seconds)
            self._over = True
        return self

    async def _attack(self, attacker):
        connection = await Connection.open(self._server)
        for number in itertools.count():
            if self._over:
                break
            text = f"{self._mark} {attacker} {number} {time.monotonic()}"
            reply = await connection.ask(post({"model": "model", "input": text}, "attack"))
            self.statuses[reply.status] += 1
        connection.close()

    async def _ask(self):
        connection = await Connection.open(self._server)
        for number in itertools.count():
            if self._over:
                break
            texts = TRUTH.texts(number, 1)
            body = {"model": "model", "input": texts, "encoding_format": "base64", "truncate": "right"}
            reply = await connection.ask(post(body, "victim"))
            assert TRUTH.right(texts, vectors_of(reply))
            self.seconds.append(reply.seconds)
            await asyncio.sleep(PAUSE_S)
        connection.close()

    async def _probe(self):
        connection = await Connection.open(self._server)
        while not self._over:
            self.readiness[(await connection.ask(get("/readyz", "probe"))).status] += 1
            await asyncio.sleep(PROBE_S)
        connection.close()


@pytest.mark.parametrize("mark", ["nan", "raise"])
def test_failing_texts_from_two_clients(tmp_path, tell, mark):
    """They leave readiness at 200 for 99 % of probes, and another client's median latency within twice."""
    with serving(tmp_path, fault("model", seconds_per_token=SECONDS_PER_TOKEN)) as server:
        before = asyncio.run(Clients(server, "fine").run(ATTACK_S / 2))
        attack = asyncio.run(Clients(server, f"<{mark}>").run(ATTACK_S))
        after = asyncio.run(Clients(server, "fine").run(ATTACK_S / 2))
    usual = statistics.median(before.seconds + after.seconds)
    median = statistics.median(attack.seconds)
    ready = attack.readiness[200] / attack.readiness.total()
    tell(median=median, usual=usual, ratio=median / usual, ready=ready, failed=attack.statuses[500])
    assert set(before.statuses) == set(after.statuses) == {200}
    assert set(attack.statuses) == {500}
    assert ready >= 0.99
    assert median <= 2 * usual
