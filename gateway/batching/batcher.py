"""The asyncio shell round the planner: jobs in, batches to workers, vectors or errors back to each job.

A batch leaves the moment a worker can take it. An idle worker takes what there is; a worker that computes
takes one more, if it is a full one, so that it never waits for the socket and never commits to a batch that
could still grow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from operator import itemgetter

from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.batching.admission import Admission
from embeddings_gateway.batching.job import Job, Request, settle
from embeddings_gateway.batching.planner import plan
from embeddings_gateway.batching.poison import Poison
from embeddings_gateway.batching.queue import Queue
from embeddings_gateway.batching.runner import Runner
from embeddings_gateway.errors import DeadlinePassed, GatewayError
from embeddings_gateway.metrics import ModelMetrics
from embeddings_gateway.workers.worker import Worker

IN_FLIGHT_MAX = 2


class Batcher:
    """Runs the jobs of one model on its workers. Belongs to one event loop.

    Args:
        model: its name, for the log.
        workers: its replicas.
        queue_tokens_max: tokens that may wait.
        metrics: where batches are counted.
        poison: where inputs that end a worker are remembered.
        audit_every: how many batches there are for each of which a part is computed again; 0 is none.

    Attributes:
        admission: what may wait.
    """

    def __init__(
        self,
        model: str,
        workers: Sequence[Worker],
        queue_tokens_max: int,
        metrics: ModelMetrics,
        poison: Poison,
        *,
        audit_every: int = 0,
    ) -> None:
        self._metrics = metrics
        self._queue = Queue(queue_tokens_max)
        self._runner = Runner(model, poison, audit_every)
        self._in_flight: dict[Worker, int] = dict.fromkeys(workers, 0)
        self._runs: set[asyncio.Task[None]] = set()
        self._refusal: Callable[[], GatewayError] | None = None
        self._stepping = False
        self.admission = Admission(self._queue, self._runner.capacity, len(workers), queue_tokens_max)
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
            DeadlinePassed: they could not be done in time.
            ModelUnavailable: there is no worker to wait for.
        """
        if self._refusal is not None:
            raise self._refusal()
        self.admission.check(request.tokens, request.deadline - time.monotonic())
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
            planned = plan(self._queue, self._runner.limits(info), time.monotonic())
            self._drop(planned.drop)
            if not planned.run or (self._in_flight[worker] and not planned.full):
                break
            self._queue.take(planned.run)
            for job in planned.overtaken:
                job.overtaken += 1
            self._start(worker, planned.run)

    def wait(self) -> None:
        """Let jobs wait for a worker, from now on."""
        self._refusal = None
        self.step()

    def refuse(self, make: Callable[[], GatewayError]) -> None:
        """Settle everything that waits, or would have to from now on, with an error of its own."""
        self._refusal = make
        settle(self._queue.clear(), make)

    def _free_worker(self) -> tuple[Worker, ModelInfo] | None:
        """Return the least busy worker that can take a batch, with the facts of its model."""
        free = [
            (batches, worker, worker.info)
            for worker, batches in self._in_flight.items()
            if worker.ready and batches < IN_FLIGHT_MAX
        ]
        _, worker, info = min(free, key=itemgetter(0), default=(0, None, None))
        return None if worker is None or info is None else (worker, info)

    def _drop(self, jobs: Sequence[Job]) -> None:
        self._queue.drop(jobs)
        settle(jobs, DeadlinePassed)

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
        """Run and settle; what was lost by no fault of its own waits again."""
        try:
            self._put_back(await self._runner.run(worker, jobs))
        finally:
            self._in_flight[worker] -= 1
        self.step()

    def _put_back(self, jobs: Sequence[Job]) -> None:
        if self._refusal is not None:
            settle(jobs, self._refusal)
        else:
            self._queue.put_back(jobs)
