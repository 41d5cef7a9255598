"""The workers of one model, seen as one: which to call, how they are, and that they make the same space."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, get_args

from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.workers.worker import OVER, CallFailed, State, Worker, WorkerLost

PING_S = 1.0
STALLED_S = 60.0
BEST_FIRST: Sequence[State] = get_args(State)
WORTH_WAITING: Collection[State] = ("ready", "searching", "restarting")


class MakeWorker(Protocol):
    """Makes one worker."""

    def __call__(self, *, accepts: Callable[[ModelInfo], bool], changed: Callable[[], None]) -> Worker:
        """Return a worker that asks ``accepts`` before it serves, and calls ``changed`` after each change."""


class Replicas:
    """All workers of one model. Belongs to one event loop.

    Args:
        makes: each makes one worker.
        changed: is called after every change of a worker's state.

    Attributes:
        workers: all of them.
    """

    def __init__(self, makes: Iterable[MakeWorker], changed: Callable[[], None]) -> None:
        self._space: str | None = None
        self._tell = changed
        self._change = asyncio.Event()
        self.workers = [make(accepts=self._accepts, changed=self._changed) for make in makes]

    def __repr__(self) -> str:
        return f"<Replicas {self.workers}>"

    @property
    def ready(self) -> list[Worker]:
        """Those that take a call now."""
        return [worker for worker in self.workers if worker.ready]

    @property
    def info(self) -> ModelInfo | None:
        """The model's facts, or ``None`` until a worker has loaded it for the first time."""
        return next((worker.info for worker in self.workers if worker.info is not None), None)

    @property
    def state(self) -> State:
        """The best state that any of them is in."""
        states = {worker.state for worker in self.workers}
        return next(state for state in BEST_FIRST if state in states)

    @property
    def worth_waiting(self) -> bool:
        """Whether a worker takes a call now or soon."""
        return any(worker.state in WORTH_WAITING for worker in self.workers)

    @property
    def over(self) -> bool:
        """Whether none will ever be ready again."""
        return self.state in OVER

    @property
    def reason(self) -> str:
        """Why none is ready; empty if one is."""
        return "" if self.state == "ready" else next(w.reason for w in self.workers if w.reason)

    async def least_busy(self) -> Worker:
        """Return the one with the fewest open calls; wait for one while that is worth while.

        Raises:
            WorkerLost: it is not.
        """
        while not (ready := self.ready):
            if not self.worth_waiting:
                raise WorkerLost(self.reason)
            await self._change.wait()
        return ready[0] if len(ready) == 1 else min(ready, key=lambda worker: worker.calls)

    def start(self) -> None:
        """Begin to load all of them."""
        for worker in self.workers:
            worker.start()

    async def attempted(self) -> None:
        """Wait until the first attempt to load each has ended, well or badly."""
        await asyncio.gather(*(worker.attempted() for worker in self.workers))

    async def stop(self) -> None:
        """End all of them."""
        await asyncio.gather(*(worker.stop() for worker in self.workers))

    async def unready(self) -> str:
        """Ask whether they are alive and moving; return what is wrong, empty if nothing is.

        One that is being started again is not asked, as long as there is another one.
        """
        ready = self.ready
        if not ready:
            return self.reason
        try:
            async with asyncio.timeout(PING_S):
                busy = max(await asyncio.gather(*(worker.ping() for worker in ready)))
        except (TimeoutError, WorkerLost, CallFailed):
            return f"a worker did not answer within {PING_S:g} s"
        return f"one batch has been computed for {busy:.0f} s" if busy > STALLED_S else ""

    def _changed(self) -> None:
        """Wake those who wait for a worker, and tell the model."""
        self._change.set()
        self._change = asyncio.Event()
        self._tell()

    def _accepts(self, info: ModelInfo) -> bool:
        """Tell whether a worker makes vectors of the space that this model has had from the beginning."""
        self._space = self._space or info.fingerprint
        return info.fingerprint == self._space
