"""What may wait for a model, and what waits: two traffic classes, each in a fair order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from embeddings_gateway.batching.fair_order import Chunk, FairOrder
from embeddings_gateway.batching.planner import Limits, plan
from embeddings_gateway.batching.request import Caller, Request, Traffic
from embeddings_gateway.batching.speed import Speed
from embeddings_gateway.errors import DeadlinePassed, Overloaded, RetryAfter

SPEED_VALID_S = 60.0
"""How long a measured speed of large batches counts: the next ones may be of other inputs, beside others."""

BULK_PART = 2
"""Bulk requests may fill one part in so many of the queue: a flood of them leaves room for interactive ones."""


def max_tokens_of(traffic: Traffic, max_queue_tokens: int) -> int:
    """Return how many tokens of a class may wait in an empty queue."""
    return max_queue_tokens // BULK_PART if traffic == "bulk" else max_queue_tokens


class Candidate(NamedTuple):
    """A batch that could leave now.

    Attributes:
        chunks: its rows, out of the queue.
        traffic: the class that they belong to.
    """

    chunks: list[Chunk]
    traffic: Traffic


class Queue:
    """What waits for one model.

    Interactive requests go first. Bulk requests take what these leave, and at least a share of the tokens that
    are served while both wait. A batch holds rows of one class, so an interactive row never waits for bulk rows
    beside it.

    Args:
        max_tokens: tokens that may wait.
        min_bulk_share: of the tokens that are served while both classes wait.
    """

    def __init__(self, max_tokens: float = math.inf, min_bulk_share: float = 0.05) -> None:
        self._orders: dict[Traffic, FairOrder] = {
            "interactive": FairOrder(max_tokens),
            "bulk": FairOrder(max_tokens / BULK_PART),
        }
        self._max_tokens = max_tokens
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

    def excess(self, tokens: int, traffic: Traffic, beside: int = 0) -> int:
        """Return how many tokens too many there would be with so many more; 0 or less: none.

        Args:
            tokens: that one class would have more.
            traffic: the class.
            beside: tokens that the other one would have more.
        """
        excess = self.tokens + tokens + beside - self._max_tokens
        if traffic == "bulk":
            excess = max(excess, self._orders["bulk"].tokens + tokens - self._max_tokens / BULK_PART)
        return math.ceil(excess) if excess > 0 else 0

    def ahead_of(self, tokens: int, caller: Caller) -> int:
        """Return about how many tokens leave before the last of a request of so many, if it came now."""
        interactive, bulk = self._orders["interactive"], self._orders["bulk"]
        if caller.traffic == "bulk":
            return interactive.tokens + bulk.ahead_of(tokens, caller)
        ahead = interactive.ahead_of(tokens, caller)
        share = self._min_bulk_share
        return ahead + min(bulk.tokens, int((ahead + tokens) * share / (1 - share)))

    def add(self, request: Request) -> None:
        """Let the rows of a request wait that are still to be computed."""
        self._orders[request.caller.traffic].add(request)

    def discard(self, request: Request) -> None:
        """Forget what still waits of a request."""
        self._orders[request.caller.traffic].discard(request)

    def put_back(self, chunks: list[Chunk]) -> None:
        """Let rows wait again that were lost with a worker; they go first."""
        if chunks:
            self._orders[chunks[0].request.caller.traffic].put_back(chunks)

    def clear(self) -> list[Chunk]:
        """Take everything out and return it."""
        return [chunk for order in self._orders.values() for chunk in order.clear()]

    @property
    def next_traffic(self) -> Traffic:
        """The class whose turn it is, of those in which something waits."""
        if not len(self._orders["interactive"]):
            return "bulk"
        return "bulk" if len(self._orders["bulk"]) and self._bulk_credit > 0 else "interactive"

    def take(self, traffic: Traffic, limits: Limits, *, only_full: bool = False) -> Candidate | None:
        """Take the next batch of a class out.

        Args:
            traffic: the class.
            limits: what a batch may be.
            only_full: whether to leave a batch that more waiting rows would make better.
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
        return Candidate(chunks, traffic)

    def _credit(self, traffic: Traffic, tokens: int) -> None:
        """Note what was served, so that bulk requests get their share while both classes wait.

        A debt stays until interactive requests were served for it; a claim ends when no bulk request waits.
        """
        if traffic == "interactive":
            self._bulk_credit += tokens * self._min_bulk_share / (1 - self._min_bulk_share)
        elif len(self._orders["interactive"]):
            self._bulk_credit -= tokens
        if not len(self._orders["bulk"]):
            self._bulk_credit = min(self._bulk_credit, 0.0)


class Ticket:
    """The room that one call takes while it is prepared: an estimate, corrected once when its tokens are known."""

    def __init__(self, admission: Admission, estimate: int, deadline: float, caller: Caller) -> None:
        self.estimate = estimate
        self.caller = caller
        self._admission = admission
        self._deadline = deadline

    def correct(self, tokens: int) -> None:
        """Replace the estimate by the tokens that the call has, which are queued next.

        Raises:
            Overloaded, DeadlinePassed: see :meth:`Admission.reserve`.
        """
        self._admission.release(self)
        self._admission.check(tokens, self._deadline, self.caller)


class Admission:
    """Lets all of a call in, or nothing.

    An estimate is reserved before texts are tokenized. So no call waits for its refusal until it has been
    tokenized, and tokenizing calls that will be refused wastes no capacity.

    Args:
        queue: what waits.
        speed: how fast an engine is in large batches; until there was one, nothing is too late.
        engines: how many there are.
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
        """Count tokens that are being prepared as if they waited already.

        Args:
            estimate: about how many tokens the call has.
            deadline: when it has to be done, in monotonic seconds.
            caller: who asks.

        Raises:
            Overloaded: the queue has no room for it, or too much stands before it.
            DeadlinePassed: it would take longer than it may even alone.
        """
        self.check(estimate, deadline, caller)
        ticket = Ticket(self, estimate, deadline, caller)
        self._reserved[caller.traffic] += estimate
        try:
            yield ticket
        finally:
            self.release(ticket)

    def release(self, ticket: Ticket) -> None:
        """Give back the room of a ticket; harmless the second time."""
        self._reserved[ticket.caller.traffic] -= ticket.estimate
        ticket.estimate = 0

    def check(self, tokens: int, deadline: float, caller: Caller) -> None:
        """Let so many tokens in, beside what waits and what is being prepared; raises as :meth:`reserve`."""
        own = self._reserved[caller.traffic]
        beside = sum(self._reserved.values()) - own
        excess = self._queue.excess(own + tokens, caller.traffic, beside)
        if excess > 0:
            raise Overloaded("The model's queue is full.", retry_after=self._retry_after(excess))
        speed = self._speed.tokens_per_s * self._engines()
        if not speed:
            return
        seconds_left = deadline - time.monotonic()
        if (self._queue.tokens + tokens) / speed <= seconds_left:
            return
        # A model that is idle learns its speed only from what is let in.
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
        """Return how long the model needs for so many tokens, in whole seconds, within bounds."""
        speed = self._speed.tokens_per_s * self._engines()
        return min(RetryAfter.MAX, math.ceil(tokens / speed)) if speed else 1
