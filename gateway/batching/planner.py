"""PURE: chooses the rows of the next batch. It knows no clock, no event loop and no state.

Rows come in their fair order, from a bounded window. The first row is always taken, so a row waits for at most as
many batches as there are rows before it. If batches are padded, the rows nearest to it in length join it, the first
of equals first, while padding costs little. If batches are packed, rows join it in order as far as they fit.
"""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_PADDING_PART = 10
"""Padding may be this fraction of a batch's cost, 1 / n ..."""

FREE_PADDING_PART = 32
"""... or this fraction of the token budget, if that is more. On a processor budgets are 256 to 2048 tokens, and a
batch has a fixed cost of about 30 tokens."""


class Limits(NamedTuple):
    """The limits of a batch.

    Attributes:
        cost: ``padded`` is the longest row times the count, ``packed`` the sum of lengths.
        max_tokens: the largest cost of a batch; a single row may exceed it.
        max_inputs: the largest number of rows in a batch.
        window_batches: how many batches' worth of rows at the head of the queue are considered.
    """

    cost: Literal["padded", "packed"]
    max_tokens: int
    max_inputs: int
    window_batches: int = 6


class Plan(NamedTuple):
    """The next batch.

    Attributes:
        picked: positions in the window, int64 ascending.
        is_full: whether waiting for more rows would not improve the batch: it has half of the token budget, the
            largest number of rows, or the window has rows that it left out.
    """

    picked: NDArray[np.int64]
    is_full: bool


def plan(lengths: NDArray[np.int32], limits: Limits) -> Plan:
    """Plan the next batch.

    Args:
        lengths: int32 ``[rows]``, the tokens of the waiting rows in their fair order; at least one.
        limits: of the batch.
    """
    picked = _most_similar(lengths, limits) if limits.cost == "padded" else _first_that_fit(lengths, limits)
    count = len(picked)
    is_full = (
        count == limits.max_inputs
        or count < len(lengths)
        or 2 * cost(lengths[picked], limits) >= limits.max_tokens
    )
    return Plan(picked, is_full)


def cost(lengths: NDArray[np.int32], limits: Limits) -> int:
    """Return what a batch of rows of these lengths costs, in tokens."""
    return int(lengths.max()) * len(lengths) if limits.cost == "padded" else int(lengths.sum())


def _first_that_fit(lengths: NDArray[np.int32], limits: Limits) -> NDArray[np.int64]:
    """Pick rows in order, and skip those that do not fit."""
    ends = np.cumsum(lengths, dtype=np.int64)
    count = int(np.searchsorted(ends, limits.max_tokens, side="right"))
    count = min(max(count, 1), limits.max_inputs)
    if count == len(lengths) or count == limits.max_inputs:
        return np.arange(count)
    picked = list(range(count))
    room = limits.max_tokens - int(ends[count - 1])
    for position, tokens in enumerate(lengths[count:].tolist(), count):
        if tokens <= room and len(picked) < limits.max_inputs:
            picked.append(position)
            room -= tokens
    return np.array(picked)


def _most_similar(lengths: NDArray[np.int32], limits: Limits) -> NDArray[np.int64]:
    """Pick the first row, then again and again the shorter or longer row that adds less padding."""
    first = int(lengths[0])
    shorter = np.flatnonzero(lengths < first)
    longer = np.flatnonzero(lengths >= first)[1:]
    # The nearest first, and of equals the oldest.
    shorter = shorter[np.argsort(-lengths[shorter], kind="stable")]
    longer = longer[np.argsort(lengths[longer], kind="stable")]
    # After the last row of a side comes one that is never taken.
    below, above = [*lengths[shorter].tolist(), -limits.max_tokens], [*lengths[longer].tolist(), sys.maxsize]
    free_padding = limits.max_tokens // FREE_PADDING_PART
    longest = total = first
    down = up = 0
    for count in range(1, limits.max_inputs):
        # A shorter row is padded itself; a longer row makes all the others be padded.
        take_below = longest - below[down] <= (above[up] - longest) * count
        tokens = below[down] if take_below else above[up]
        new_longest = tokens if tokens > longest else longest
        new_cost = new_longest * (count + 1)
        padding = new_cost - total - tokens
        if new_cost > limits.max_tokens or (
            padding > free_padding and padding > new_cost // MAX_PADDING_PART
        ):
            break
        longest, total = new_longest, total + tokens
        if take_below:
            down += 1
        else:
            up += 1
    return np.sort(np.concatenate([np.zeros(1, np.int64), shorter[:down], longer[:up]]))
