"""The engines of one model: chooses the engine of a call, and counts the calls of each.

Engines can be added and removed while it runs. All of them, also after a restart, must agree with what was loaded
first: in their facts, and in the outputs of the self-test's probes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import get_args

from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.backends.selftest import changed_results
from embeddings_gateway.workers.engine import CallFailed, Engine, Loaded, MakeEngine, State, WorkerGone

PING_S = 1.0
STALLED_S = 60.0
SEARCH_READY_S = 10.0
"""For so long a model without a ready engine counts as ready while it searches for a failing input: calls wait, and
any client could have sent that input."""

MAY_DIFFER = {"device", "cost", "max_batch_tokens", "max_batch_inputs", "created", "notes"}
"""Facts of an engine in which those of one model need not agree."""

BEST_FIRST: Sequence[State] = get_args(State)
WORTH_WAITING: Collection[State] = ("ready", "searching", "restarting")


class Dispatcher:
    """All engines of one model. Belongs to one event loop.

    Args:
        clock: seconds, never going back.

    Attributes:
        engines: those that may get a call, in the order in which they were added.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.engines: list[Engine] = []
        self._batches: Counter[Engine] = Counter()
        self._tokenizer_calls: Counter[Engine] = Counter()
        self._leaving: list[Engine] = []  # removed, but not stopped yet
        self._started = False
        self._first: Loaded | None = None
        self._listeners: list[Callable[[], None]] = []
        self._change = asyncio.Event()
        self._unready_since = math.inf

    def __repr__(self) -> str:
        return f"<Dispatcher {self.engines}>"

    @property
    def info(self) -> ModelInfo | None:
        """The model's facts, ``None`` until an engine has loaded it for the first time."""
        return next((engine.info for engine in self.engines if engine.info is not None), None)

    @property
    def state(self) -> State:
        """The best state that any engine is in."""
        states = {engine.state for engine in self.engines}
        return next((state for state in BEST_FIRST if state in states), "stopped")

    @property
    def reason(self) -> str:
        """Why no engine is ready, from the one in the best state; empty if one is."""
        if self.ready:
            return ""
        state = self.state
        reasons = (engine.reason for engine in self.engines if engine.state == state and engine.reason)
        return next(reasons, f"the model is {state}" if self.engines else "the model has no engine")

    @property
    def ready(self) -> bool:
        """Whether any engine takes a call now."""
        return any(engine.ready for engine in self.engines)

    @property
    def worth_waiting(self) -> bool:
        """Whether an engine takes a call now or soon."""
        return any(engine.state in WORTH_WAITING for engine in self.engines)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change of an engine's state."""
        self._listeners.append(listener)

    def add(self, make: MakeEngine) -> Engine:
        """Add an engine; it is started with the others, or at once if they run already."""
        engine = make(accepts=self._accepts, on_change=self._changed)
        self.engines.append(engine)
        if self._started:
            engine.start()
        return engine

    async def remove(self, engine: Engine) -> None:
        """Give the engine no more calls, wait until its open calls have ended, and stop it."""
        self.engines.remove(engine)
        self._leaving.append(engine)
        self._changed()
        try:
            while self._batches[engine] or self._tokenizer_calls[engine]:
                await self._change.wait()
        finally:
            await engine.stop()
            self._leaving.remove(engine)
            del self._batches[engine], self._tokenizer_calls[engine]

    def start(self) -> None:
        """Start all engines; :attr:`state` tells the progress."""
        self._started = True
        for engine in self.engines:
            engine.start()

    async def first_attempt(self) -> None:
        """Wait until each engine has succeeded or failed to load the model once."""
        await asyncio.gather(*(engine.first_attempt() for engine in self.engines))

    async def stop(self) -> None:
        """Stop all engines for good."""
        self._started = False
        await asyncio.gather(*(engine.stop() for engine in (*self.engines, *self._leaving)))

    async def unready(self) -> str:
        """Ping the engines that are ready; return what is wrong with the model, empty if nothing is.

        An engine that is restarting is no problem as long as another one is ready, nor is a search that has not
        taken long.
        """
        ready = [engine for engine in self.engines if engine.ready]
        if not ready:
            searches = self.state == "searching" and self._unready_s() < SEARCH_READY_S
            return "" if searches else self.reason
        try:
            async with asyncio.timeout(PING_S):
                busy = max(await asyncio.gather(*(engine.ping() for engine in ready)))
        except (TimeoutError, WorkerGone, CallFailed):
            return f"a worker did not answer within {PING_S:g} s"
        return f"one batch has been computed for {busy:.0f} s" if busy > STALLED_S else ""

    def free_engine(self, limit: int) -> Engine | None:
        """Return the ready engine with the fewest batches in flight, if it has fewer than ``limit``."""
        free = [engine for engine in self.engines if engine.ready and self._batches[engine] < limit]
        return min(free, key=self.in_flight, default=None)

    def in_flight(self, engine: Engine) -> int:
        """Return how many batches the engine has."""
        return self._batches[engine]

    def computing(self, engine: Engine) -> AbstractContextManager[None]:
        """Count one batch of the engine, from this call to the end of the ``with`` block."""
        return _Counted(self._batches, engine, self._call_ended)

    async def tokenizing_engine(self) -> Engine:
        """Return the ready engine with the fewest tokenizer calls; wait for one while that is worthwhile.

        Raises:
            WorkerGone: no engine will be ready soon.
        """
        while not (ready := [engine for engine in self.engines if engine.ready]):
            if not self.worth_waiting:
                raise WorkerGone(self.reason)
            await self._change.wait()
        return min(ready, key=self._tokenizer_calls.__getitem__)

    def tokenizing(self, engine: Engine) -> AbstractContextManager[None]:
        """Count one tokenizer call of the engine, from this call to the end of the ``with`` block."""
        return _Counted(self._tokenizer_calls, engine, self._call_ended)

    def _call_ended(self) -> None:
        if self._leaving:
            self._wake()

    def _unready_s(self) -> float:
        """Return for how many seconds no engine has been ready; 0 if one is."""
        now = self._clock()
        self._unready_since = math.inf if self.ready else min(self._unready_since, now)
        return max(0.0, now - self._unready_since)

    def _changed(self) -> None:
        self._unready_s()  # notes since when no engine is ready
        self._wake()
        for listener in self._listeners:
            listener()

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    def _accepts(self, loaded: Loaded) -> str:
        """Return how an engine differs from the first one, for an operator; empty if they may serve together."""
        if self._first is None:
            self._first = loaded
            return ""
        first = self._first.info
        if loaded.info.fingerprint != first.fingerprint:
            return "its embedding space has changed, so its files or its device have changed"
        if facts := changed_facts(first, loaded.info):
            return f"its files have changed ({', '.join(facts)})"
        return changed_results(loaded.reference, self._first.reference, first)


def changed_facts(before: ModelInfo, now: ModelInfo) -> list[str]:
    """Return the facts by which inputs are prepared and results are read, if they have changed: ``a is 1, was 2``."""
    names = (name for name in ModelInfo.__struct_fields__ if name not in MAY_DIFFER)
    facts = ((name, getattr(before, name), getattr(now, name)) for name in names)
    return [
        f"{name} is {new}, was {old}" if isinstance(new, int | str) else name
        for name, old, new in facts
        if new != old
    ]


class _Counted(AbstractContextManager[None]):
    """One call, counted from when this is made until its ``with`` block ends."""

    def __init__(self, counts: Counter[Engine], engine: Engine, on_end: Callable[[], None]) -> None:
        self._counts = counts
        self._engine = engine
        self._on_end = on_end
        counts[engine] += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._counts[self._engine] -= 1
        self._on_end()
