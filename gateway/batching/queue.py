"""The queue of a model: two traffic classes, each in a fair order; and the admission of calls to it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from embeddings_gateway.batching.chunks import Chunk
from embeddings_gateway.batching.fair_order import FairOrder
from embeddings_gateway.batching.planner import Limits, plan
from embeddings_gateway.batching.request import Caller, Request, Traffic
from embeddings_gateway.batching.speed import Speed
from embeddings_gateway.errors import DeadlinePassed, Overloaded, RetryAfter

SPEED_VALID_S = 60.0
"""How long a measured speed of large batches stays valid for an idle model: the load may change."""

BULK_PART = 2
"""Of bulk requests, 1 / n of the tokens of interactive ones may wait."""


def max_tokens_of(traffic: Traffic, max_queue_tokens: int) -> int:
    """Return how many tokens of a class may wait."""
    return max_queue_tokens // BULK_PART if traffic == "bulk" else max_queue_tokens


class TakenBatch(NamedTuple):
    """A batch that was taken out of the queue.

    Attributes:
        chunks: its rows.
        traffic: their class.
    """

    chunks: list[Chunk]
    traffic: Traffic


class Queue:
    """The rows that wait for one model.

    Interactive requests go first. Bulk requests get what these leave, and at least a share of the tokens while
    both wait. A batch has rows of one class, so an interactive row never waits for bulk rows in its own batch. Each
    class has room of its own, so neither can keep the other out.

    Args:
        max_tokens: the most tokens of interactive requests that may wait; of bulk requests, half as many.
        min_bulk_share: the least share of bulk requests in the tokens that are served while both classes wait.
    """

    def __init__(self, max_tokens: float = math.inf, min_bulk_share: float = 0.05) -> None:
        self._orders: dict[Traffic, FairOrder] = {
            "interactive": FairOrder(max_tokens),
            "bulk": FairOrder(max_tokens / BULK_PART),
        }
        self._min_bulk_share = min_bulk_share
        self._bulk_credit = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._orders.values()))

    def __repr__(self) -> str:
        return f"<Queue {len(self)} rows, {self.tokens} tokens>"

    @property
    def tokens(self) -> int:
        """Tokens of all rows that wait."""
        return sum(order.tokens for order in self._orders.values())

    def excess(self, tokens: int, traffic: Traffic) -> int:
        """Return how many tokens of a class would be too many if more were added; 0 if none."""
        order = self._orders[traffic]
        excess = order.tokens + tokens - order.max_tokens
        return math.ceil(excess) if excess > 0 else 0

    def ahead_of(self, tokens: int, caller: Caller) -> int:
        """Return about how many tokens would leave before the end of a request of ``tokens`` that came now."""
        interactive, bulk = self._orders["interactive"], self._orders["bulk"]
        if caller.traffic == "bulk":
            return interactive.tokens + bulk.ahead_of(tokens, caller)
        ahead = interactive.ahead_of(tokens, caller)
        share = self._min_bulk_share
        return ahead + min(bulk.tokens, int((ahead + tokens) * share / (1 - share)))

    def add(self, request: Request) -> None:
        """Add the rows of a request that are not settled."""
        self._orders[request.caller.traffic].add(request)

    def discard(self, request: Request) -> None:
        """Remove the rows of a request that still wait."""
        self._orders[request.caller.traffic].discard(request)

    def put_back(self, chunks: list[Chunk]) -> None:
        """Add rows that were lost with a worker again; they go first."""
        if chunks:
            self._orders[chunks[0].request.caller.traffic].put_back(chunks)

    def clear(self) -> list[Chunk]:
        """Remove and return all rows."""
        return [chunk for order in self._orders.values() for chunk in order.clear()]

    @property
    def next_traffic(self) -> Traffic:
        """The class whose turn it is; something waits in it, unless the queue is empty."""
        if not len(self._orders["interactive"]):
            return "bulk"
        return "bulk" if len(self._orders["bulk"]) and self._bulk_credit > 0 else "interactive"

    def take(self, traffic: Traffic, limits: Limits, *, only_full: bool = False) -> TakenBatch | None:
        """Remove and return the next batch of a class.

        Args:
            traffic: the class.
            limits: of a batch.
            only_full: whether to leave a batch that would be better with more rows.
        """
        order = self._orders[traffic]
        if not len(order):
            return None
        window = order.window(
            limits.window_batches * limits.max_tokens, limits.window_batches * limits.max_inputs
        )
        lengths = np.concatenate([chunk.lengths for chunk in window])
        picked, is_full = plan(lengths, limits)
        if only_full and not is_full:
            return None
        chunks = order.take(window, picked)
        self._credit(traffic, sum(chunk.tokens for chunk in chunks))
        return TakenBatch(chunks, traffic)

    def _credit(self, traffic: Traffic, tokens: int) -> None:
        """Update the credit of bulk requests, in tokens, so that they get their share while both classes wait.

        Each interactive token earns a little, each bulk token costs one. A negative credit is kept; a positive
        one expires when no bulk request waits.
        """
        if traffic == "interactive":
            self._bulk_credit += tokens * self._min_bulk_share / (1 - self._min_bulk_share)
        elif len(self._orders["interactive"]):
            self._bulk_credit -= tokens
        if not len(self._orders["bulk"]):
            self._bulk_credit = min(self._bulk_credit, 0.0)


class Ticket:
    """The reservation of one call while it is prepared.

    Attributes:
        tokens: what is reserved.
        caller: who asks.
    """

    def __init__(self, admission: Admission, estimate: int, deadline: float, caller: Caller) -> None:
        self.tokens = estimate
        self.caller = caller
        self._admission = admission
        self._deadline = deadline
        self._work: dict[asyncio.Future[Any], int] = {}

    def hold(self, work: asyncio.Future[Any], tokens: int) -> None:
        """Keep so many tokens, but no more than are reserved, until the work is done, even if the call ends before."""
        self._work[work] = tokens

    def correct(self, tokens: int) -> None:
        """Replace the estimate by the real number of tokens, which the caller queues at once.

        Raises:
            Overloaded, DeadlinePassed: see :meth:`Admission.reserve`.
        """
        self._admission.release(self, self.tokens)
        self._admission.check(tokens, self._deadline, self.caller)

    def end(self, _: object = None) -> None:
        """End the reservation, but for what is still worked on."""
        self._work = {work: tokens for work, tokens in self._work.items() if not work.done()}
        self._admission.release(self, self.tokens - min(self.tokens, sum(self._work.values())))
        for work in self._work:
            work.remove_done_callback(self.end)
            work.add_done_callback(self.end)


class Admission:
    """Admits a call as a whole or refuses it, before it is tokenized and again when its tokens are known.

    Tokenizing calls that will be refused would waste capacity.

    Args:
        queue: of the model.
        speed: of an engine in large batches; until it is known, no call is too late.
        engines: returns how many there are.
    """

    def __init__(self, queue: Queue, speed: Speed, engines: Callable[[], int]) -> None:
        self._queue = queue
        self._speed = speed
        self._engines = engines
        self._reserved: dict[Traffic, int] = {"interactive": 0, "bulk": 0}

    def __repr__(self) -> str:
        return f"<Admission {sum(self._reserved.values())} tokens reserved>"

    @contextmanager
    def reserve(self, estimate: int, deadline: float, caller: Caller) -> Iterator[Ticket]:
        """Count the estimate as if the tokens waited already, until the block ends or the ticket is corrected.

        What was begun for the call inside the block, and the ticket holds, counts until it is done.

        Args:
            estimate: about how many tokens the call has.
            deadline: when it has to be done, in monotonic seconds.
            caller: who asks.

        Raises:
            Overloaded: the queue has no room for the call, or it would wait too long for its deadline.
            DeadlinePassed: it would miss its deadline even if nothing else waited.
        """
        self.check(estimate, deadline, caller)
        ticket = Ticket(self, estimate, deadline, caller)
        self._reserved[caller.traffic] += estimate
        try:
            yield ticket
        finally:
            ticket.end()

    def release(self, ticket: Ticket, tokens: int) -> None:
        """Make a reservation so many tokens smaller."""
        self._reserved[ticket.caller.traffic] -= tokens
        ticket.tokens -= tokens

    def check(self, tokens: int, deadline: float, caller: Caller) -> None:
        """Raise as :meth:`reserve` does, unless there is room and time for the tokens of a call."""
        excess = self._queue.excess(self._reserved[caller.traffic] + tokens, caller.traffic)
        if excess > 0:
            raise Overloaded("The model's queue is full.", retry_after=self._retry_after(excess))
        speed = self._speed.tokens_per_s * self._engines()
        if not speed:
            return
        seconds_left = deadline - time.monotonic()
        if (self._queue.tokens + tokens) / speed <= seconds_left:
            return
        # An idle model cannot measure a new speed while it refuses everything.
        if not self._queue.tokens and time.monotonic() - self._speed.known_at > SPEED_VALID_S:
            return
        if tokens / speed > seconds_left:
            raise DeadlinePassed(
                f"The request cannot be done in time: it takes about {tokens / speed:.1f} s."
            )
        excess_s = (self._queue.ahead_of(tokens, caller) + tokens) / speed - seconds_left
        if excess_s > 0:
            raise Overloaded(
                "The request cannot be done in time: too much stands before it.",
                retry_after=min(RetryAfter.MAX, math.ceil(excess_s)),
            )

    def _retry_after(self, tokens: int) -> int:
        """Return how long the model needs for so many tokens, in whole seconds from 1 to ``MAX``."""
        speed = self._speed.tokens_per_s * self._engines()
        return min(RetryAfter.MAX, math.ceil(tokens / speed)) if speed else 1
