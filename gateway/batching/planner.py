"""PURE: which of the waiting jobs make the next batch. No clock, no asyncio, no state of its own.

Jobs come in their fair order. A batch is put together round the first of them, from a bounded window. Where
padding costs, it takes those nearest to it in length, the oldest of equals first, until padding would be more
than a tenth of the batch; where it does not, it takes in order whatever fits.

A job that was overtaken ``overtakes_max`` times is overdue. The next batch is put together round the first
overdue job, and no batch reaches behind an overdue job that it leaves. So no job is overtaken by more than
``overtakes_max`` batches, however many are overdue at once; all other batches that leave before it hold
nothing but jobs that stand before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar


class Plannable(Protocol):
    """What the planner needs to know of a job."""

    @property
    def tokens(self) -> int:
        """Its length."""

    @property
    def overtaken(self) -> int:
        """Batches that left with a job from behind it, and without it."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""

    @property
    def deadline(self) -> float:
        """When it is no longer worth computing."""


J = TypeVar("J", bound=Plannable)

PADDING_PART = 10
"""Padding that the planner allows is at most this part of a batch's cost ..."""

PADDING_FREE_PART = 32
"""... or this part of the token budget, if that is more: on a processor, whose budgets are 256 to 2048, a
batch costs as much as 30 tokens beside its own."""


class Limits(NamedTuple):
    """What a batch may be.

    Attributes:
        cost: ``padded`` is the longest job times the count, ``packed`` the sum of lengths.
        batch_tokens: the largest cost of a batch; one job alone may exceed it.
        batch_inputs: the largest number of jobs in a batch.
        window_batches: how many batches' worth of jobs are looked at, from the head of the queue.
        overtakes_max: how many batches may overtake a job.
    """

    cost: Literal["padded", "packed"]
    batch_tokens: int
    batch_inputs: int
    window_batches: int = 6
    overtakes_max: int = 16


class Plan(NamedTuple, Generic[J]):
    """What to do with the queue.

    Attributes:
        run: the next batch; empty only if nothing waits.
        drop: jobs that nobody waits for, or whose deadline has passed.
        overtaken: jobs that stay although one from behind them leaves.
        full: whether more waiting would not make the batch better: it has half of the token budget or all
            the jobs it may, or others wait beside it.
    """

    run: list[J]
    drop: list[J]
    overtaken: list[J]
    full: bool


def plan(queue: Iterable[J], limits: Limits, now: float) -> Plan[J]:
    """Plan the next batch.

    Args:
        queue: the waiting jobs in their fair order.
        limits: what a batch may be.
        now: the time that deadlines are compared with.
    """
    window, drop = _window(queue, limits, now)
    if not window:
        return Plan([], drop, [], False)
    places = _places(window, limits)
    taken = set(places)
    run = [window[place] for place in sorted(places)]
    overtaken = [window[place] for place in range(max(places)) if place not in taken]
    counted_out = len(run) == limits.batch_inputs
    full = counted_out or len(run) < len(window) or 2 * cost(run, limits) >= limits.batch_tokens
    return Plan(run, drop, overtaken, full)


def cost(jobs: Sequence[Plannable], limits: Limits) -> int:
    """Return what a batch of these jobs costs, in tokens."""
    lengths = [job.tokens for job in jobs]
    return max(lengths) * len(lengths) if limits.cost == "padded" else sum(lengths)


def _window(queue: Iterable[J], limits: Limits, now: float) -> tuple[list[J], list[J]]:
    """Return the jobs worth looking at, and the ones to drop that were met on the way."""
    window: list[J] = []
    drop: list[J] = []
    tokens = 0
    tokens_max = limits.window_batches * limits.batch_tokens
    jobs_max = limits.window_batches * limits.batch_inputs
    for job in queue:
        if job.gone or job.deadline <= now:
            drop.append(job)
            continue
        window.append(job)
        tokens += job.tokens
        if tokens >= tokens_max or len(window) >= jobs_max:
            break
    return window, drop


def _places(window: Sequence[Plannable], limits: Limits) -> list[int]:
    """Return the places of those that leave: the overdue ones in order, or the head; and who suits them."""
    batch = _Batch([job.tokens for job in window], limits)
    overdue = [place for place, job in enumerate(window) if job.overtaken >= limits.overtakes_max]
    end = next((place for place in overdue or [0] if not batch.take(place)), len(window))
    if limits.cost == "padded":
        batch.fill_with_likes(end)
    else:
        batch.fill_in_order(end)
    return batch.places


class _Batch:
    """A batch while it is put together, of jobs with these lengths.

    Attributes:
        places: of the jobs that it has, as they were taken.
    """

    def __init__(self, lengths: Sequence[int], limits: Limits) -> None:
        self.places: list[int] = []
        self._lengths = lengths
        self._limits = limits
        self._longest = 0
        self._sum = 0

    def take(self, place: int) -> bool:
        """Add a job if it fits and padding stays small; the first always does."""
        limits, tokens = self._limits, self._lengths[place]
        count, longest, total = len(self.places) + 1, max(self._longest, tokens), self._sum + tokens
        price = longest * count if limits.cost == "padded" else total
        if self.places and (
            price > limits.batch_tokens
            or count > limits.batch_inputs
            or price - total > max(price // PADDING_PART, limits.batch_tokens // PADDING_FREE_PART)
        ):
            return False
        self.places.append(place)
        self._longest, self._sum = longest, total
        return True

    def fill_in_order(self, end: int) -> None:
        """Add whatever fits of the jobs before the place ``end``."""
        for place in self._others(end):
            self.take(place)

    def fill_with_likes(self, end: int) -> None:
        """Add jobs before the place ``end``, always the one that adds least padding, until it is too much."""
        lengths = self._lengths
        others = self._others(end)[::-1]  # so that of equals the oldest stands last, and is popped first
        shorter = [place for place in others if lengths[place] <= self._longest]
        longer = [place for place in others if lengths[place] > self._longest]
        shorter.sort(key=lengths.__getitem__)
        longer.sort(key=lengths.__getitem__, reverse=True)
        while shorter or longer:
            # a shorter job is padded itself, a longer one has all the others padded
            down = self._longest - lengths[shorter[-1]] if shorter else math.inf
            up = (lengths[longer[-1]] - self._longest) * len(self.places) if longer else math.inf
            if not self.take((shorter if down <= up else longer).pop()):
                break

    def _others(self, end: int) -> list[int]:
        """Return the places before ``end`` of the jobs that it does not have."""
        taken = set(self.places)
        return [place for place in range(end) if place not in taken]
