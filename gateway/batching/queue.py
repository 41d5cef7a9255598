"""The jobs that wait for a model, in a fair order between requests."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from operator import attrgetter

from embeddings_gateway.batching.job import Job, Request

_turn = attrgetter("turn")
_lateness = attrgetter("late_at", "turn")


CHUNK_TOKENS = 2048
"""So much of a request leaves as one piece: about as much as a processor is best at computing at once."""


class Queue:
    """Waiting jobs, ordered so that a large request does not hold up a small one, nor the reverse.

    Fair queueing in virtual time (Demers, Keshav, Shenker 1989): each waiting request is a flow of weight
    one, virtual time runs at the speed at which each of them is served, and what is served next is what would
    be finished first, were all served at once in equal shares. A request comes in pieces; one that is a
    single piece leaves as a whole, so that those of like size are answered one after the other, instead of
    all together when the last is done.

    Fair shares alone would let a stream of small requests hold up a large one for as long as it lasts. So a
    job is late once as much has been served since it came as may wait beside its request, or half of what may
    wait at all if that is more, and leaves before all that is not late: what is accepted waits little longer
    than a full queue takes.

    Args:
        tokens_max: how many may wait.

    Attributes:
        tokens: of all waiting jobs together.
    """

    def __init__(self, tokens_max: float = math.inf) -> None:
        self.tokens = 0
        self._tokens_max = tokens_max
        self._jobs: list[Job] = []
        self._arrivals: dict[Job, None] = {}
        self._late: list[Job] = []
        self._served = 0
        self._waiting: Counter[Request] = Counter()
        self._virtual_time = 0.0

    def __len__(self) -> int:
        return len(self._late) + len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return chain(self._late, self._jobs)

    def add(self, request: Request) -> None:
        """Let all jobs of a request wait."""
        tokens = 0
        late_at = self._served + max(self._tokens_max / 2, self._tokens_max - request.tokens)
        for job in request.jobs:
            tokens += job.tokens
            job.late_at = late_at
            piece_ends = -(-tokens // CHUNK_TOKENS) * CHUNK_TOKENS
            job.turn = self._virtual_time + min(piece_ends, request.tokens)
        self._insert(request.jobs)
        self._arrivals |= dict.fromkeys(request.jobs)

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait at the turn that they have, in order, as if they had not been taken."""
        self._insert(jobs)
        self._arrivals = dict.fromkeys(sorted(jobs, key=_lateness)) | self._arrivals  # they came before these
        late, self._late = self._late, []
        self._note_late()
        self._late = sorted(self._late + late, key=_lateness)

    def _insert(self, jobs: Sequence[Job]) -> None:
        if len(jobs) == 1:
            insort(self._jobs, jobs[0], key=_turn)
        else:
            self._jobs += jobs
            self._jobs.sort(key=_turn)  # two sorted runs: merged in one pass
        for job in jobs:
            self.tokens += job.tokens
            self._waiting[job.owner] += job.tokens

    def ahead_of(self, tokens: int) -> int:
        """Return how many tokens leave before the last of a request of so many, if it came now."""
        end = bisect_right(self._jobs, self._virtual_time + tokens, key=_turn)
        return sum(job.tokens for job in chain(self._late, self._jobs[:end]))

    def take(self, jobs: Collection[Job]) -> None:
        """Take jobs out because they are served."""
        tokens = sum(job.tokens for job in jobs)
        self._served += tokens
        self._virtual_time += tokens / max(1, len(self._waiting))
        self.drop(jobs)
        self._note_late()

    def _note_late(self) -> None:
        while self._arrivals and (oldest := next(iter(self._arrivals))).late_at <= self._served:
            self._to_late(oldest)

    def drop(self, jobs: Collection[Job]) -> None:
        """Take jobs out. They stand near the head, where the planner met them."""
        leaving = set(jobs)
        missing, end = len(leaving), 0
        late = [job for job in self._late if job not in leaving]
        missing -= len(self._late) - len(late)
        self._late = late
        while missing:
            missing -= self._jobs[end] in leaving
            end += 1
        self._jobs[:end] = [job for job in self._jobs[:end] if job not in leaving]
        self.tokens -= sum(job.tokens for job in leaving)
        for job in leaving:
            self._arrivals.pop(job, None)
            self._waiting[job.owner] -= job.tokens
            if self._waiting[job.owner] == 0:
                del self._waiting[job.owner]

    def _to_late(self, job: Job) -> None:
        del self._arrivals[job]
        place = bisect_left(self._jobs, job.turn, key=_turn)
        while self._jobs[place] is not job:
            place += 1
        del self._jobs[place]
        self._late.append(job)

    def forget(self, request: Request) -> None:
        """Take out what still waits of a request."""
        if request in self._waiting:
            self.drop([job for job in self if job.owner is request])

    def clear(self) -> list[Job]:
        """Take all jobs out and return them."""
        jobs = list(self)
        self.tokens, self._jobs, self._late, self._arrivals, self._waiting = 0, [], [], {}, Counter()
        return jobs
