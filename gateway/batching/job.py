"""What is queued and run: a request's inputs as jobs, and the place where their vectors gather."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import TokenIds, Vectors
from embeddings_gateway.errors import GatewayError


class Job:
    """One input on its way through a model.

    Attributes:
        owner: the request that it belongs to.
        index: its row among that request's vectors.
        place: the input that it is, or is a window of.
        ids: its token ids.
        tokens: how many.
        turn: its place in the fair order of the queue; lower leaves earlier.
        late_at: how many tokens the queue has served when it is late.
        overtaken: batches that left with a job behind this one in the fair order, and without this one.
    """

    __slots__ = ("ids", "index", "late_at", "overtaken", "owner", "place", "tokens", "turn")

    def __init__(self, owner: Request, index: int, place: int, ids: TokenIds) -> None:
        self.owner = owner
        self.index = index
        self.place = place
        self.ids = ids
        self.tokens = len(ids)
        self.turn = 0.0
        self.late_at = 0.0
        self.overtaken = 0

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.owner.done.done()

    @property
    def deadline(self) -> float:
        """When it is no longer worth computing, in seconds of the monotonic clock."""
        return self.owner.deadline


class Request:
    """The inputs of one client's request: their jobs, and their vectors or errors as they arrive.

    Belongs to the event loop it was made in. ``done`` is set exactly once: when the last input is settled,
    when one fails and ``partial`` is false or the fault is not its own, or when it is cancelled because the
    client went away.

    Args:
        inputs: the token ids of each, or why it has none.
        vectors: NaN, float32 ``[inputs, dimensions]``: room for what comes.
        deadline: when the jobs are no longer worth computing, in seconds of the monotonic clock.
        partial: whether an input that fails by its own fault leaves the others alone.
        places: which input each row is a window of; ``None`` where each row is an input.

    Attributes:
        jobs: one for each input that has token ids, in order.
        vectors: float32 ``[inputs, dimensions]``; a row is NaN until its job is settled.
        errors: input -> why it has no vector.
        tokens: of all jobs together.
        began, finished: monotonic seconds of the first job's start and the last one's end.
    """

    def __init__(
        self,
        inputs: Sequence[TokenIds | GatewayError],
        vectors: Vectors,
        deadline: float,
        partial: bool,
        places: Sequence[int] | None = None,
    ) -> None:
        self.jobs = [
            Job(self, row, row if places is None else places[row], ids)
            for row, ids in enumerate(inputs)
            if not isinstance(ids, GatewayError)
        ]
        self.vectors = vectors
        self.errors: dict[int, GatewayError] = {}
        self.tokens = sum(job.tokens for job in self.jobs)
        self.deadline = deadline
        self.began: float | None = None
        self.finished: float | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._partial = partial
        self._open = set(range(len(inputs)))
        for index, outcome in enumerate(inputs):
            if isinstance(outcome, GatewayError):
                self.settle(index, outcome)

    def __repr__(self) -> str:
        return f"<Request {len(self.jobs)} jobs, {len(self._open)} open, {self.tokens} tokens>"

    def settle(self, index: int, outcome: NDArray[np.float32] | GatewayError) -> None:
        """Give the input its vector, float32 ``[dimensions]``, or its error.

        Raises:
            KeyError: it was settled before, which no correct caller does.
        """
        self._open.remove(index)
        if self.done.done():
            return
        if isinstance(outcome, GatewayError):
            self.errors[index] = outcome
            if not self._partial or not outcome.of_the_input:
                self.done.set_exception(outcome)
                return
        else:
            self.vectors[index] = outcome
        if not self._open:
            self.finished = time.monotonic()
            self.done.set_result(None)

    def seconds(self, since: float) -> dict[str, float]:
        """Return how long its jobs waited for the first batch, and then ran; for a finished request."""
        finished = self.finished or since
        began = self.began or finished
        return {"queue": began - since, "infer": finished - began}


def settle(jobs: Iterable[Job], make: Callable[[], GatewayError]) -> None:
    """Give each job an error of its own."""
    for job in jobs:
        job.owner.settle(job.index, make())
