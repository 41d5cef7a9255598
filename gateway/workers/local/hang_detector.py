"""PURE: when a worker counts as hung, because it is silent or a call takes too long.

Time is counted in intervals, not by the clock. If the gateway itself was held up for a minute, one interval
has passed, and no worker counts as hung for it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from embeddings_gateway.backends.messages import Check, Ping, Request, Run, Tokenize

INTERVAL_S_MAX = 1.0
INTERVALS_MIN = 10
SILENCE_S_MAX = 10.0


class WorkerTimeouts(NamedTuple):
    """How long a worker may take.

    Attributes:
        hang_s: the shortest time limit of a call. A worker that answers no ping may be silent for this time, but
            for ten seconds at most.
        load_s: the time limit of loading a model.
    """

    hang_s: float = 30.0
    load_s: float = 3600.0


class HangDetector:
    """The open calls of one worker. One thread computes, so time counts only for the oldest batch.

    Args:
        timeouts: of the worker.

    Attributes:
        interval_s: how often :meth:`poll` has to be called.
    """

    def __init__(self, timeouts: WorkerTimeouts) -> None:
        self.interval_s = min(INTERVAL_S_MAX, timeouts.hang_s / INTERVALS_MIN)
        self._silence_max = math.ceil(min(SILENCE_S_MAX, timeouts.hang_s) / self.interval_s)
        self._silence = 0
        self._computing: dict[int, float] = {}  # call id -> intervals that it may still take
        self._tokenizing: dict[int, float] = {}
        self._overdue: int | None = None

    def begin(self, call: Request, timeout_s: float) -> None:
        """Add a call that is sent now; ``timeout_s`` is how long the worker may work on it."""
        intervals = timeout_s / self.interval_s
        match call:
            case Run(id=call_id) | Check(id=call_id):
                self._computing[call_id] = intervals
            case Tokenize(id=call_id):
                self._tokenizing[call_id] = intervals
            case Ping():
                pass

    def end(self, call_id: int) -> None:
        """Remove a call whose reply has come."""
        self._silence = 0
        self._computing.pop(call_id, None)
        self._tokenizing.pop(call_id, None)

    def poll(self) -> str:
        """Count one interval; return why the worker counts as hung, empty if it does not."""
        self._silence += 1
        if self._silence > self._silence_max:
            return f"hung: no reply for {self._silence * self.interval_s:g} s"
        for calls, running in ((self._computing, 1), (self._tokenizing, len(self._tokenizing))):
            for call_id in list(calls)[:running]:
                calls[call_id] -= 1
                if calls[call_id] < 0:
                    self._overdue = call_id
                    return "hung: a call took too long"
        return ""

    def suspects(self) -> set[int]:
        """Return the calls that the worker may have been working on when it ended.

        If a tokenizer call is overdue, all tokenizer calls are suspects: it may only have waited for another.
        """
        if self._overdue in self._tokenizing:
            return {*self._tokenizing}
        if self._overdue is not None:
            return {self._overdue}
        return {*list(self._computing)[:1], *self._tokenizing}
