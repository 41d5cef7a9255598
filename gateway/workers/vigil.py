"""How long a worker has been silent and its calls open, counted in ticks instead of seconds.

A gateway that was itself held up for a minute counts one tick, and takes no worker for hung because of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from embeddings_gateway.backends.protocol import Call, Check, Embed, Ping, Tokenize

TICK_S_MAX = 1.0
SILENT_S_MAX = 10.0
TICKS = 10

HANG_FACTOR = 20.0
"""A call that takes so many times as long as the model's speed says has hung; one is slow now and then."""


class Patience(NamedTuple):
    """How long a worker may take.

    Attributes:
        hang_s: at least so long for a call; a process that does not even answer a ping may be silent for
            as long, or ten seconds if that is less.
        load_s: for loading its model.
    """

    hang_s: float = 30.0
    load_s: float = 3600.0


class Vigil:
    """What a worker owes. One thread computes, so of its batches only the first one ages.

    Args:
        patience: how long it may take.

    Attributes:
        tick_s: how long a tick is.
    """

    def __init__(self, patience: Patience) -> None:
        self.tick_s = min(TICK_S_MAX, patience.hang_s / TICKS)
        self._silent_max = math.ceil(min(SILENT_S_MAX, patience.hang_s) / self.tick_s)
        self._silent = 0
        self._computing: dict[int, float] = {}
        self._tokenizing: dict[int, float] = {}
        self._overdue: int | None = None

    def begin(self, call: Call, seconds_max: float) -> None:
        """Note a call that is sent now, and how long it may take once it is worked on."""
        ticks = seconds_max / self.tick_s
        match call:
            case Embed(id=call_id) | Check(id=call_id):
                self._computing[call_id] = ticks
            case Tokenize(id=call_id):
                self._tokenizing[call_id] = ticks
            case Ping():
                pass

    def end(self, call_id: int) -> None:
        """Note an answer."""
        self._silent = 0
        self._computing.pop(call_id, None)
        self._tokenizing.pop(call_id, None)

    def tick(self) -> str:
        """Let a tick pass; return why the worker has to be taken for hung, empty if it has not."""
        self._silent += 1
        if self._silent > self._silent_max:
            return f"hung: it answered nothing for {self._silent * self.tick_s:g} s"
        for calls, ages in ((self._computing, 1), (self._tokenizing, len(self._tokenizing))):
            for call_id in list(calls)[:ages]:
                calls[call_id] -= 1
                if calls[call_id] < 0:
                    self._overdue = call_id
                    return "hung: a call took longer than it may"
        return ""

    def suspects(self) -> set[int]:
        """Return the calls that may have been worked on when the worker ended.

        Of texts all of them: whichever is overdue may only have waited for those that hang.
        """
        if self._overdue in self._tokenizing:
            return {*self._tokenizing}
        if self._overdue is not None:
            return {self._overdue}
        return {*list(self._computing)[:1], *self._tokenizing}
