"""Runs a batch on a worker, and gives each of its jobs what it gets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.batching.audit import Audit, alike
from embeddings_gateway.batching.budget import Budget
from embeddings_gateway.batching.job import Job, settle
from embeddings_gateway.batching.outcome import Outcome, outcomes
from embeddings_gateway.batching.planner import Limits, cost
from embeddings_gateway.batching.poison import Poison
from embeddings_gateway.batching.speed import Speed
from embeddings_gateway.errors import GatewayError, InputFailed, InternalError, ModelUnavailable
from embeddings_gateway.log import get_logger
from embeddings_gateway.workers.isolation import GivenUp, Isolation
from embeddings_gateway.workers.worker import (
    CallFailed,
    Mistaken,
    OutOfMemory,
    Worker,
    WorkerDied,
    WorkerLost,
)

RETRY_GIVEN_UP_S = 5


class Runner:
    """What becomes of batches on workers, and what is learned of a model by it.

    Args:
        model: its name, for the log.
        poison: where inputs that end a worker are remembered.
        audit_every: how many batches there are for each of which a part is computed again; 0 is none.

    Attributes:
        speed: how fast a worker is, whatever is asked of it.
        capacity: how fast it is in large batches, when much is asked of it.
    """

    def __init__(self, model: str, poison: Poison, audit_every: int) -> None:
        self.speed = Speed()
        self.capacity = Speed()
        self._log = get_logger().bind(model=model, work="embed")
        self._poison = poison
        self._budget = Budget()
        self._audit = Audit(audit_every)

    def limits(self, info: ModelInfo) -> Limits:
        """Return what a batch may be, for a model of these facts."""
        return Limits(info.cost, self._budget.within(info.batch_tokens), info.batch_inputs)

    async def run(self, worker: Worker, jobs: Sequence[Job]) -> list[Job]:
        """Run a batch and settle its jobs; a failure is searched for the guilty.

        Returns:
            Those that were lost with the worker, by no fault of theirs, and that somebody waits for.
        """
        left = dict.fromkeys(jobs)

        def tell(job: Job, answer: Outcome | CallFailed | GivenUp) -> None:
            del left[job]
            found = self._error(job, answer) if isinstance(answer, Exception) else answer
            job.owner.settle(job.index, found)

        def still(jobs: Sequence[Job]) -> Sequence[Job]:
            for job in jobs if len(self._poison) else ():
                # another one like it has ended a worker
                if job in left and job.ids.tobytes() in self._poison:
                    tell(job, CallFailed("it is known to end a worker"))
            return [job for job in jobs if job in left]

        try:
            if not worker.ready:  # any more
                raise WorkerLost
            await Isolation(worker, partial(self._call, worker), tell, still, self._log).run(jobs)
        except WorkerLost:
            return [job for job in left if not job.gone]
        except Exception:
            self._log.exception("batch failed", inputs=len(jobs))
            settle(left, InternalError)
        return []

    async def _call(self, worker: Worker, jobs: Sequence[Job]) -> Sequence[Outcome | None]:
        """Have a worker compute a batch; return the vector of each, ``None`` where it is unusable."""
        info = worker.info
        if info is None:
            raise WorkerLost
        limits = self.limits(info)
        price = cost(jobs, limits)
        try:
            seconds_max = self.speed.seconds_max(price, worker.tokens_per_s)
            timed = await worker.embed([job.ids for job in jobs], seconds_max)
        except OutOfMemory:
            if len(jobs) > 1:
                self._budget.exhausted(price)
            raise
        found = outcomes(timed.vectors, len(jobs), info)
        await self._look_again(worker, info, jobs, found)
        self._budget.sufficed(price)
        tokens = sum(job.tokens for job in jobs)
        now = time.monotonic()
        self.speed.observe(tokens, timed.seconds, now)
        if 2 * price >= limits.batch_tokens or len(jobs) == limits.batch_inputs:
            self.capacity.observe(tokens, timed.seconds, now)
        return found

    async def _look_again(
        self, worker: Worker, info: ModelInfo, jobs: Sequence[Job], rows: Sequence[Outcome | None]
    ) -> None:
        """Compute one of them again, now and then.

        Raises:
            Mistaken: it has another vector by itself.
        """
        place = self._audit.choose(rows)
        if place is None:
            return
        job, row = jobs[place], rows[place]
        alone = await worker.embed([job.ids], self.speed.seconds_max(job.tokens, worker.tokens_per_s))
        (again,) = outcomes(alone.vectors, 1, info)
        if row is None or again is None or not alike(row, again, info):
            raise Mistaken("an input has another vector by itself")

    def _error(self, job: Job, failure: CallFailed | GivenUp) -> GatewayError:
        """Return the error of an input that has no vector; one that ended a worker is remembered."""
        if isinstance(failure, GivenUp):
            return given_up()
        # memory may have been short because of somebody else
        if isinstance(failure, WorkerDied) and not isinstance(failure, OutOfMemory):
            self._poison.add(job.ids.tobytes())
        return InputFailed("The model fails on this input.", f"input[{job.place}]")


def given_up() -> ModelUnavailable:
    """Return the error of an input beside which too many others ended workers."""
    return ModelUnavailable("The model's workers died too often.", "model", RETRY_GIVEN_UP_S)
