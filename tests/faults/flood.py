"""More load than a model can take: requests at a fixed rate, whatever becomes of those before."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import NamedTuple

from tests.faults.connection import Connection, Lost, Reply, post
from tests.faults.truth import Truth
from tests.faults.verdict import judge
from tests.server import WAIT_S, Server


class Answer(NamedTuple):
    """One answer: right, or else refused.

    Attributes:
        seconds: how long it took.
    """

    right: bool
    status: int
    seconds: float


class Flood:
    """Requests at a rate. Belongs to one event loop.

    Args:
        inputs: of one request.
        rate: requests a second.

    Attributes:
        answers: in the order in which they came.
    """

    def __init__(self, server: Server, truth: Truth, *, inputs: int, rate: float) -> None:
        self.answers: list[Answer] = []
        self._server = server
        self._truth = truth
        self._inputs = inputs
        self._rate = rate
        self._idle: list[Connection] = []

    async def run(self, seconds: float) -> None:
        """Send requests for so long, and wait for all answers.

        Raises:
            ExceptionGroup: of what became of requests that got none, or one that must not be.
        """
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(seconds + WAIT_S):
            for number in itertools.count():
                at = number / self._rate
                if at > seconds:
                    break
                await asyncio.sleep(began + at - time.monotonic())
                tasks.create_task(self._one(number))
        for connection in self._idle:
            connection.close()

    async def _one(self, number: int) -> None:
        texts = self._truth.texts(number, self._inputs)
        body = {"model": self._truth.model, "input": texts, "encoding_format": "base64", "truncate": "right"}
        reply = await self._ask(post(body, f"flood-{number}"))
        right = judge(reply, f"flood-{number}", self._truth, texts)
        self.answers.append(Answer(right, reply.status, reply.seconds))

    async def _ask(self, request: bytes) -> Reply:
        """Ask on a connection that is kept, unless the gateway ends it for its idleness at that moment."""
        if self._idle:
            connection = self._idle.pop()
            try:
                reply = await connection.ask(request)
            except Lost as lost:
                if not lost.unread:
                    raise
            else:
                self._idle.append(connection)
                return reply
        connection = await Connection.open(self._server)
        reply = await connection.ask(request)
        self._idle.append(connection)
        return reply

    def seconds(self, *, right: bool) -> list[float]:
        """Return how long the answers took that were right, or that were not."""
        return [answer.seconds for answer in self.answers if answer.right == right]
