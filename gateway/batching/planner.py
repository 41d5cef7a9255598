"""PURE: which of the waiting jobs make the next batch. No clock, no asyncio, no state of its own.

Jobs come in their fair order. A batch always holds the first of them, and beside it others of like length
from a bounded window, as many as the token budget takes. A job that was overtaken ``overtakes_max`` times
puts an end to sorting: batches then leave strictly in order until it has left. So nothing is ever overtaken
by more than ``overtakes_max`` batches.
"""

from __future__ import annotations

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
    window_batches: int = 8
    overtakes_max: int = 8


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
    if any(job.overtaken >= limits.overtakes_max for job in window):
        places = _in_order(window, limits)
    else:
        places = _alike(window, limits)
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
    for job in queue:
        if job.gone or job.deadline <= now:
            drop.append(job)
            continue
        window.append(job)
        tokens += job.tokens
        if (
            tokens >= limits.window_batches * limits.batch_tokens
            or len(window) >= limits.window_batches * limits.batch_inputs
        ):
            break
    return window, drop


def _in_order(window: Sequence[Plannable], limits: Limits) -> list[int]:
    """Return the places of the longest run from the head that fits."""
    batch = _Batch(limits)
    for place, job in enumerate(window):
        if not batch.take(place, job.tokens):
            break
    return batch.places


def _alike(window: Sequence[Plannable], limits: Limits) -> list[int]:
    """Return the places of the head and of those nearest to it in length that fit."""
    order = sorted(range(len(window)), key=lambda place: window[place].tokens)
    head = order.index(0)
    batch = _Batch(limits)
    batch.take(0, window[0].tokens)
    below, above = head - 1, head + 1
    while below >= 0 or above < len(order):
        shorter = window[order[below]].tokens if below >= 0 else None
        longer = window[order[above]].tokens if above < len(order) else None
        if longer is None or (shorter is not None and batch.longest - shorter <= longer - batch.longest):
            place, below = order[below], below - 1
        else:
            place, above = order[above], above + 1
        if not batch.takes_like(window[place].tokens) or not batch.take(place, window[place].tokens):
            break
    return batch.places


class _Batch:
    """A batch while it is put together."""

    def __init__(self, limits: Limits) -> None:
        self.places: list[int] = []
        self.longest = 0
        self._shortest = 0
        self._sum = 0
        self._limits = limits

    def takes_like(self, tokens: int) -> bool:
        """Whether padding stays small with this length: a stray one runs cheaper in a batch of its own."""
        longest, shortest = max(self.longest, tokens), min(self._shortest, tokens)
        return self._limits.cost == "packed" or longest - shortest <= max(8, longest // 4)

    def take(self, place: int, tokens: int) -> bool:
        """Add a job if it fits; the first always does."""
        count, longest, total = len(self.places) + 1, max(self.longest, tokens), self._sum + tokens
        price = longest * count if self._limits.cost == "padded" else total
        if self.places and (price > self._limits.batch_tokens or count > self._limits.batch_inputs):
            return False
        self._shortest = min(self._shortest, tokens) if self.places else tokens
        self.places.append(place)
        self.longest, self._sum = longest, total
        return True
