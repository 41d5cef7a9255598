"""The asyncio shell round the planner: jobs in, batches to workers, vectors or errors back to each job.

A batch leaves the moment a worker can take it. An idle worker takes what there is; a worker that computes
takes one more, if it is a full one, so that it never waits for the socket and never commits to a batch that
could still grow.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

import structlog

from backends.base import ModelInfo
from gateway.batching.job import Job, Request
from gateway.batching.outcome import Outcome, WrongAnswer, outcomes
from gateway.batching.planner import Limits, plan
from gateway.batching.queue import Queue
from gateway.errors import (
    DeadlinePassed,
    GatewayError,
    InputFailed,
    InternalError,
    ModelUnavailable,
    Overloaded,
)
from gateway.metrics import ModelMetrics
from gateway.workers.worker import CallFailed, Worker, WorkerLost

IN_FLIGHT_MAX = 2
RETRY_AFTER_S_MAX = 60
RETRY_LOST_S = 1
SPEED_MEMORY = 0.9


class Batcher:
    """Runs the jobs of one model on its workers. Belongs to one event loop.

    Args:
        model: its name, for the log.
        workers: its replicas.
        queue_tokens_max: tokens that may wait.
        metrics: where batches are counted.
    """

    def __init__(
        self, model: str, workers: Sequence[Worker], queue_tokens_max: int, metrics: ModelMetrics
    ) -> None:
        self._log = structlog.get_logger().bind(model=model)
        self._queue_tokens_max = queue_tokens_max
        self._metrics = metrics
        self._queue = Queue()
        self._in_flight: dict[Worker, int] = dict.fromkeys(workers, 0)
        self._runs: set[asyncio.Task[None]] = set()
        self._tokens_per_s = 0.0
        self._stepping = False
        metrics.watch_queue(lambda: len(self._queue), lambda: self._queue.tokens)

    def __repr__(self) -> str:
        return f"<Batcher {len(self._queue)} jobs, {self._queue.tokens} tokens, {self._running} running>"

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not len(self._queue) and not self._running

    @property
    def _running(self) -> int:
        return sum(self._in_flight.values())

    def admit(self, request: Request) -> None:
        """Queue all jobs of the request, or none.

        Raises:
            Overloaded: the queue cannot take them.
        """
        excess = self._queue.tokens + request.tokens - self._queue_tokens_max
        if excess > 0:
            raise Overloaded("The model's queue is full.", retry_after=self._seconds_for(excess))
        self._queue.add(request)
        if not self._stepping:  # one step for all requests of this turn of the loop: they may share a batch
            self._stepping = True
            asyncio.get_running_loop().call_soon(self.step)

    def discard(self, request: Request) -> None:
        """Forget the jobs of a request that still wait: nobody waits for them any more."""
        self._queue.forget(request)

    def step(self) -> None:
        """Take, plan, run: give a batch to every worker that can take one. Called when something changed."""
        self._stepping = False
        while len(self._queue) and (free := self._free_worker()) is not None:
            worker, info = free
            limits = Limits(info.cost, info.batch_tokens, info.batch_inputs)
            planned = plan(self._queue, limits, time.monotonic())
            self._drop(planned.drop)
            if not planned.run or (self._in_flight[worker] and not planned.full):
                break
            self._queue.take(planned.run)
            for job in planned.overtaken:
                job.overtaken += 1
            self._start(worker, planned.run)

    def fail_waiting(self, make: Callable[[], GatewayError]) -> None:
        """Settle everything that waits with an error of its own."""
        settle((job, make()) for job in self._queue.clear())

    def _free_worker(self) -> tuple[Worker, ModelInfo] | None:
        """Return the least busy worker that can take a batch, with the facts of its model."""
        free = [
            (batches, worker, worker.info)
            for worker, batches in self._in_flight.items()
            if worker.info is not None and batches < IN_FLIGHT_MAX
        ]
        _, worker, info = min(free, key=itemgetter(0), default=(0, None, None))
        return None if worker is None or info is None else (worker, info)

    def _drop(self, jobs: Sequence[Job]) -> None:
        self._queue.drop(jobs)
        settle((job, DeadlinePassed("The request was not done in time.")) for job in jobs)

    def _start(self, worker: Worker, jobs: list[Job]) -> None:
        self._in_flight[worker] += 1
        self._metrics.batch_inputs.observe(len(jobs))
        self._metrics.batch_tokens.observe(sum(job.tokens for job in jobs))
        began = time.monotonic()
        for job in jobs:
            job.owner.began = job.owner.began or began
        run = asyncio.get_running_loop().create_task(self._run(worker, jobs))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(self, worker: Worker, jobs: list[Job]) -> None:
        """Run, settle."""
        try:
            answers = await self._answers(worker, jobs)
        except Exception:
            self._log.exception("batch failed", inputs=len(jobs))
            answers = [InternalError() for _ in jobs]
        finally:
            self._in_flight[worker] -= 1
        settle(zip(jobs, answers, strict=True))
        self.step()

    async def _answers(self, worker: Worker, jobs: list[Job]) -> Sequence[Outcome | GatewayError]:
        """Return what each job gets. A batch that fails is halved until only the guilty inputs fail."""
        info = worker.info
        try:
            if info is None:
                raise WorkerLost
            timed = await worker.embed([job.ids for job in jobs])
            answers = outcomes(timed.vectors, len(jobs), info)
        except WorkerLost:
            return [ModelUnavailable("The model's worker went away.", "model", RETRY_LOST_S) for _ in jobs]
        except (CallFailed, WrongAnswer) as error:
            self._log.warning("batch failed", inputs=len(jobs), reason=str(error))
            if len(jobs) == 1:
                return [InputFailed("The model fails on this input.")]
            half = len(jobs) // 2
            return [*await self._answers(worker, jobs[:half]), *await self._answers(worker, jobs[half:])]
        self._measure(jobs, timed.seconds)
        return answers

    def _measure(self, jobs: Sequence[Job], seconds: float) -> None:
        """Remember the model's speed, as a moving average over batches."""
        speed = sum(job.tokens for job in jobs) / max(seconds, 1e-6) * len(self._in_flight)
        old = self._tokens_per_s or speed
        self._tokens_per_s = SPEED_MEMORY * old + (1 - SPEED_MEMORY) * speed

    def _seconds_for(self, tokens: int) -> int:
        """Return how long the model needs for this many tokens, in whole seconds, within bounds."""
        return min(RETRY_AFTER_S_MAX, math.ceil(tokens / self._tokens_per_s)) if self._tokens_per_s else 1


def settle(answers: Iterable[tuple[Job, Outcome | GatewayError]]) -> None:
    """Give each job what it gets; the failure of an input names it."""
    for job, answer in answers:
        if isinstance(answer, InputFailed):
            answer.param = f"input[{job.index}]"
        job.owner.settle(job.index, answer)
