"""What may wait for a model: one bound in tokens, and nothing that could not be done in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embeddings_gateway.batching.queue import Queue
from embeddings_gateway.batching.request import Caller, Traffic
from embeddings_gateway.batching.speed import Speed
from embeddings_gateway.errors import DeadlinePassed, Overloaded

MAX_RETRY_AFTER_S = 60
SPEED_VALID_S = 60.0
"""How long a measured speed of large batches counts: the next ones may be of other inputs, beside others."""


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
                retry_after=min(MAX_RETRY_AFTER_S, math.ceil(excess_s)),
            )

    def _retry_after(self, tokens: int) -> int:
        """Return how long the model needs for so many tokens, in whole seconds, within bounds."""
        speed = self._speed.tokens_per_s * self._engines()
        return min(MAX_RETRY_AFTER_S, math.ceil(tokens / speed)) if speed else 1
