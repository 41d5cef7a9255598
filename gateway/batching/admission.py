"""What may wait for a model: one bound in tokens, and nothing that could not be done in time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from embeddings_gateway.batching.queue import Queue
from embeddings_gateway.batching.speed import Speed
from embeddings_gateway.errors import DeadlinePassed, Overloaded

RETRY_AFTER_S_MAX = 60
KNOWN_S = 60.0
"""How long it counts how fast large batches were: the next ones may be of other inputs, beside others."""


class Admission:
    """Lets all of a request in, or nothing.

    Texts are expected by an estimate before they are tokenized, so that no request waits for its refusal
    until it has been, and none is tokenized for nothing.

    Args:
        queue: what waits.
        speed: how fast a worker is in large batches; until there was one, nothing is too late.
        workers: how many there are.
        tokens_max: how many may wait.
    """

    def __init__(self, queue: Queue, speed: Speed, workers: int, tokens_max: int) -> None:
        self._queue = queue
        self._speed = speed
        self._workers = workers
        self._tokens_max = tokens_max
        self._expected = 0

    def __repr__(self) -> str:
        return f"<Admission {self._expected} tokens expected>"

    @contextmanager
    def expected(self, tokens: int, seconds_max: float) -> Iterator[None]:
        """Count tokens that are being prepared as if they waited already.

        Raises:
            Overloaded, DeadlinePassed: see :meth:`check`.
        """
        self.check(tokens, seconds_max, beside=self._expected)
        self._expected += tokens
        try:
            yield
        finally:
            self._expected -= tokens

    def check(self, tokens: int, seconds_max: float, beside: int = 0) -> None:
        """Let a request in.

        Args:
            tokens: of all its inputs.
            seconds_max: in which it has to be done.
            beside: of others that need room in the queue as well; their turns are not known yet.

        Raises:
            Overloaded: the queue has no room for it, or too much stands before it.
            DeadlinePassed: it would take longer than it may even alone.
        """
        excess = self._queue.tokens + beside + tokens - self._tokens_max
        if excess > 0:
            raise Overloaded("The model's queue is full.", retry_after=self._retry_after(excess))
        speed = self._speed.tokens_per_s * self._workers
        if not speed or (self._queue.tokens + tokens) / speed <= seconds_max:
            return
        if not self._queue.tokens and time.monotonic() - self._speed.known_at > KNOWN_S:
            return
        if tokens / speed > seconds_max:
            raise DeadlinePassed(
                f"The request cannot be done in time: it takes about {tokens / speed:.1f} s."
            )
        excess_s = (self._queue.ahead_of(tokens) + tokens) / speed - seconds_max
        if excess_s > 0:
            raise Overloaded(
                "The request cannot be done in time: too much stands before it.",
                retry_after=min(RETRY_AFTER_S_MAX, math.ceil(excess_s)),
            )

    def _retry_after(self, tokens: int) -> int:
        """Return how long the model needs for this many tokens, in whole seconds, within bounds."""
        speed = self._speed.tokens_per_s * self._workers
        return min(RETRY_AFTER_S_MAX, math.ceil(tokens / speed)) if speed else 1
