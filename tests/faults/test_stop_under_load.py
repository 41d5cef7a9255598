"""A gateway that is asked to end under load: what it accepted is answered, and nothing is left of it."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter

import pytest

from tests.faults.asking import ask
from tests.faults.connection import Connection, Lost, post
from tests.faults.models import FULL_SIZE, fault
from tests.faults.truth import Computed, vectors_of
from tests.faults.verdict import Fault, judge
from tests.faults.watch import metric, workers
from tests.processes import Watch
from tests.server import WAIT_S, serving

TRUTH = Computed("model")
CLIENTS, INPUTS = 16, 4
PAUSE_S = 0.02


class Stopping:
    """Clients that ask until nobody listens any more.

    Attributes:
        seen: how often there was which end of a request.
    """

    def __init__(self, server) -> None:
        self.seen: Counter[str] = Counter()
        self._server = server
        self._numbers = itertools.count()
        self._signalled = float("inf")

    async def run(self, answered: int) -> None:
        """Ask; send the signal after so many answers; return when nobody listens any more."""
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(self._client())
            while self.seen["right"] < answered:
                await asyncio.sleep(0.001)
            self._signalled = time.monotonic()
            self._server.process.send_signal(signal.SIGTERM)

    async def _client(self) -> None:
        while True:
            try:
                connection = await Connection.open(self._server)
            except ConnectionError:
                self._saw("nobody listens", time.monotonic())
                return
            try:
                while await self._one(connection, next(self._numbers)):
                    pass
            finally:
                connection.close()

    async def _one(self, connection, number) -> bool:
        """Ask once; return whether the connection stays."""
        texts, request_id = TRUTH.texts(number, INPUTS), f"stop-{number}"
        body = {"model": "model", "input": texts, "encoding_format": "base64"}
        try:
            reply = await connection.ask(post(body, request_id))
        except Lost as lost:
            if not lost.unread:
                raise Fault(f"{request_id} was read, and not answered") from None
            self._saw("nobody reads", time.monotonic())
            return False
        if judge(reply, request_id, TRUTH, texts):
            self.seen["right"] += 1
        elif reply.status == 503:
            self._saw("refused", reply.received)
            await asyncio.sleep(PAUSE_S)
        else:
            raise Fault(f"status {reply.status}: {reply.body[:200]!r}")
        return reply.headers.get("connection") != "close"

    def _saw(self, end: str, at: float) -> None:
        """Count what may only be after the signal."""
        if at < self._signalled:
            raise Fault(f"{end}, and no signal was sent")
        self.seen[end] += 1


def test_stopped_under_load(tmp_path, full_size, tell):
    """Asked to end under load, again and again, it answers what it has read, and ends in order."""
    seen: Counter[str] = Counter()
    seconds = []
    for number in range(50 if full_size else 1):
        with serving(tmp_path, fault("model", seconds_per_token=2e-5)) as server:
            watches = [Watch(worker) for worker in workers(server)]
            stopping = Stopping(server)
            asyncio.run(stopping.run(answered=20 + 7 * number))
            ended = time.monotonic()
            assert server.process.wait(WAIT_S) == 0
            seconds.append(time.monotonic() - ended)
            assert all(watch.ended() for watch in watches)
            assert "Traceback" not in server.log.read_text()
            seen += stopping.seen
    tell(**{key.replace(" ", "_"): count for key, count in seen.items()}, seconds_max=max(seconds))


def test_accepted_before_the_signal(tmp_path):
    """What waits or is computed when the signal comes gets its vectors."""
    requests = [TRUTH.texts(number, 8) for number in range(CLIENTS)]

    async def stopped():
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(ask(server, "model", texts)) for texts in requests]
            while await asyncio.to_thread(metric, server, "queue_jobs", model="model") < 64:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
        return [task.result() for task in asking]

    with serving(tmp_path, fault("model", seconds_per_token=2e-4, max_batch_tokens=512)) as server:
        for texts, reply in zip(requests, asyncio.run(stopped()), strict=True):
            assert reply.status == 200, reply.body
            assert TRUTH.right(texts, vectors_of(reply))
        assert server.process.wait(WAIT_S) == 0


@pytest.mark.parametrize("mark", [pytest.param("hang", marks=FULL_SIZE), "freeze"])
def test_stopped_while_a_worker_stands_still(tmp_path, mark):
    """A worker that will never answer does not keep it from ending; its request gets an error."""

    async def stopped():
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask(server, "model", [f"<{mark}>"]))
            while await asyncio.to_thread(metric, server, "batch_inputs_count", model="model") < 1:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
        return asking.result()

    with serving(tmp_path, "[server]\nshutdown_timeout_s = 1\n" + fault("model")) as server:
        watches = [Watch(worker) for worker in workers(server)]
        reply = asyncio.run(stopped())
        assert reply.status in (500, 503), reply.body
        assert server.process.wait(WAIT_S) == 0
        assert all(watch.ended() for watch in watches)
