"""Load on a gateway: clients that ask one request after the other, and judge every answer.

A request that is refused for now is sent again until it is answered, so what the clients hold at the end is
an answer to every one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import NamedTuple

from tests.faults.connection import Connection, Lost, get, post
from tests.faults.truth import Truth
from tests.faults.verdict import Fault, judge
from tests.server import WAIT_S, Server

PAUSE_S = 0.05
_loads = itertools.count()


class Right(NamedTuple):
    """A right answer: when it was asked for and when it came, in monotonic seconds."""

    sent: float
    received: float


class Load:
    """Clients of one model. Belongs to one event loop.

    Args:
        truth: what they ask and what is right.
        inputs: of one request.
        patience_s: how long a client waits for an answer, and how long it tries one request again.

    Attributes:
        right: the right answers.
        refused: how many were refused, by status.
        faults: what was neither.
    """

    def __init__(self, server: Server, truth: Truth, *, inputs: int = 4, patience_s: float = 60) -> None:
        self.right: list[Right] = []
        self.refused: Counter[int] = Counter()
        self.faults: list[str] = []
        self._server = server
        self._truth = truth
        self._inputs = inputs
        self._patience_s = patience_s
        self._name = f"load-{next(_loads)}"
        self._numbers = itertools.count()
        self._ending = False

    @contextlib.asynccontextmanager
    async def clients(self, count: int) -> AsyncIterator[Load]:
        """Ask until the block ends and every request is answered; then nothing must have been wrong."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(self._client())
            try:
                yield self
            finally:
                self._ending = True
        assert not self.faults, self.faults[:5]

    async def more(self, count: int) -> None:
        """Wait for so many right answers to requests that are sent from now on."""
        now, begin = time.monotonic(), len(self.right)
        end = now + WAIT_S
        while sum(answer.sent >= now for answer in self.right[begin:]) < count:
            assert not self.faults, self.faults[:5]
            assert time.monotonic() < end, f"{len(self.right) - begin} answers, {self.refused} refused"
            await asyncio.sleep(0.01)

    def seconds(self, since: float = 0) -> list[float]:
        """Return how long each right answer took, of requests that were sent after ``since``."""
        return [answer.received - answer.sent for answer in self.right if answer.sent >= since]

    def recovered(self, at: float) -> float:
        """Return how long after ``at`` the first request that was sent after it was answered."""
        return min(answer.received for answer in self.right if answer.sent >= at) - at

    async def _client(self) -> None:
        connection = await Connection.open(self._server)
        try:
            while not self._ending:
                await self._answered(connection, next(self._numbers))
            # were there an answer too many, it would come in the place of this one
            reply = await connection.ask(get("/livez", f"{self._name}-last"))
            if reply.headers["x-request-id"] != f"{self._name}-last":
                raise Fault(f"a second answer to {reply.headers['x-request-id']}")
        except (Fault, Lost, AssertionError) as fault:
            self.faults.append(f"{type(fault).__name__}: {fault}")
        finally:
            connection.close()

    async def _answered(self, connection: Connection, number: int) -> None:
        """Ask until there is an answer."""
        texts = self._truth.texts(number, self._inputs)
        body = {"model": self._truth.model, "input": texts, "encoding_format": "base64", "truncate": "right"}
        end = time.monotonic() + self._patience_s
        for attempt in itertools.count():
            request_id = f"{self._name}-{number}-{attempt}"
            try:
                async with asyncio.timeout(self._patience_s):
                    reply = await connection.ask(post(body, request_id))
            except TimeoutError:
                raise Fault(f"no answer to {request_id}") from None
            if judge(reply, request_id, self._truth, texts):
                self.right.append(Right(reply.sent, reply.received))
                return
            self.refused[reply.status] += 1
            if time.monotonic() > end:
                raise Fault(f"refused for {self._patience_s:g} s: {reply.body[:200]!r}")
            await asyncio.sleep(PAUSE_S)
