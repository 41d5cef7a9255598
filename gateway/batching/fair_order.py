"""Orders waiting rows fairly between callers, and between the requests of one caller.

Rows wait in chunks: a request of 2000 inputs takes about twenty objects instead of 2000.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.batching.request import Caller, Request, Rows

CHUNK_TOKENS = 4096
"""The tokens of a chunk: a few batches on a processor. Smaller chunks cost the queue more for each input."""

_finish = attrgetter("virtual_finish")


class Chunk:
    """Some rows of one request that wait, or are computed, together.

    Attributes:
        request: to which they belong.
        rows: int64 ``[n]``.
        lengths: int32 ``[n]``, the tokens of each row.
        tokens: of all rows.
        virtual_finish: the key of the fair order between the requests of a caller; lower leaves earlier.
        is_overdue: whether it goes before all chunks that are not overdue.
    """

    __slots__ = ("is_overdue", "lengths", "request", "rows", "tokens", "virtual_finish")

    def __init__(
        self,
        request: Request,
        rows: Rows,
        lengths: NDArray[np.int32],
        virtual_finish: float,
        is_overdue: bool,
    ) -> None:
        self.request = request
        self.rows = rows
        self.lengths = lengths
        self.tokens = int(lengths.sum())
        self.virtual_finish = virtual_finish
        self.is_overdue = is_overdue

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def joined(cls, parts: Sequence[Chunk]) -> Chunk:
        """Return the rows of several chunks of one request as one, at the place of the first."""
        first = parts[0]
        if len(parts) == 1:
            return first
        rows = np.concatenate([part.rows for part in parts])
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(first.request, rows, lengths, first.virtual_finish, first.is_overdue)

    def part(self, positions: NDArray[np.int64]) -> Chunk:
        """Return the rows at some positions as a chunk with the same place in the order."""
        rows, lengths = self.rows[positions], self.lengths[positions]
        return Chunk(self.request, rows, lengths, self.virtual_finish, self.is_overdue)

    def split_off(self, positions: NDArray[np.int64]) -> Chunk:
        """Return the rows at some positions, and keep the others."""
        taken = self.part(positions)
        stays = np.ones(len(self.rows), np.bool_)
        stays[positions] = False
        self.rows, self.lengths = self.rows[stays], self.lengths[stays]
        self.tokens -= taken.tokens
        return taken


class Flow:
    """The waiting rows of one caller, in a fair order between its requests.

    Fair queueing in virtual time (Demers, Keshav, Shenker 1989): virtual time runs at the speed at which each
    waiting request of the caller is served. The chunk that leaves next is the one that would finish first if all
    requests were served at once in equal shares. A small request is a single chunk. So requests of similar size
    finish one after the other, instead of all together at the end.

    Attributes:
        chunks: those that are not overdue, ascending by ``virtual_finish``.
        start: the key of the fair order between callers; lower leaves earlier.
        weight: of the caller.
        waiting: request -> its waiting tokens, overdue ones included.
    """

    def __init__(self, weight: float, start: float) -> None:
        self.chunks: list[Chunk] = []
        self.start = start
        self.weight = weight
        self.waiting: dict[Request, int] = {}
        self._virtual_time = 0.0
        self._spans: dict[Request, tuple[float, float]] = {}  # virtual times of its arrival and its finish

    def add(self, request: Request, rows: Rows) -> None:
        """Add the rows of a request, in chunks."""
        lengths, time = request.batch.lengths[rows], self._virtual_time
        self._spans[request] = (time, time + request.tokens)
        self.count(request, request.tokens)
        if request.tokens <= CHUNK_TOKENS:
            insort(self.chunks, Chunk(request, rows, lengths, time + request.tokens, False), key=_finish)
            return
        pieces = (np.cumsum(lengths, dtype=np.int64) - 1) // CHUNK_TOKENS
        bounds = [0, *(np.flatnonzero(np.diff(pieces)) + 1).tolist(), len(rows)]
        chunks = []
        for begin, end in pairwise(bounds):
            finish = time + min((int(pieces[end - 1]) + 1) * CHUNK_TOKENS, request.tokens)
            chunks.append(Chunk(request, rows[begin:end], lengths[begin:end], finish, False))
        self.chunks += chunks
        self.chunks.sort(key=_finish)  # two sorted runs: merged in one pass

    def count(self, request: Request, tokens: int) -> None:
        """Count so many more waiting tokens of a request."""
        self.waiting[request] = self.waiting.get(request, 0) + tokens

    def serve(self, chunk: Chunk, among: int) -> None:
        """Count a chunk that leaves for a worker, while so many requests of the caller wait."""
        self._virtual_time += chunk.tokens / among
        self.start += chunk.tokens / self.weight
        self.forget(chunk)

    def forget(self, chunk: Chunk) -> None:
        """Stop counting a chunk, or a part of one."""
        self.waiting[chunk.request] -= chunk.tokens
        if not self.waiting[chunk.request]:
            del self.waiting[chunk.request]
            self._spans.pop(chunk.request, None)

    def remove(self, chunk: Chunk) -> None:
        """Remove a chunk from the order."""
        position = bisect_left(self.chunks, chunk.virtual_finish, key=_finish)
        while self.chunks[position] is not chunk:
            position += 1
        del self.chunks[position]

    def chunks_of(self, request: Request) -> list[Chunk]:
        """Return the chunks of a request that are not overdue."""
        first, last = self._spans.get(request, (math.inf, -math.inf))
        begin = bisect_left(self.chunks, first, key=_finish)
        end = bisect_right(self.chunks, last, key=_finish)
        return [chunk for chunk in self.chunks[begin:end] if chunk.request is request]

    def ahead_of(self, tokens: int) -> int:
        """Return how many tokens would leave before the end of a request of ``tokens`` that came now."""
        end = bisect_right(self.chunks, self._virtual_time + tokens, key=_finish)
        return sum(chunk.tokens for chunk in self.chunks[:end])


class FairOrder:
    """The waiting rows of one traffic class, in a fair order between callers.

    Start-time fair queueing (Goyal, Vin, Cheng 1996): each caller has a start, which grows by the tokens that it
    is served, divided by its weight. The lowest start goes first. A caller that had nothing waiting begins at the
    lowest start of the others.

    Fair shares alone would let a stream of small requests hold up a large one for as long as the stream lasts.
    So a request becomes overdue once the class has been served as many tokens since it came as the queue can hold
    besides it, at least half the queue. Overdue requests go first, so a request waits little longer than a full
    queue takes.

    Args:
        max_tokens: the most that may wait.

    Attributes:
        max_tokens: the same.
        tokens: of all waiting rows.
    """

    def __init__(self, max_tokens: float = math.inf) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self._rows = 0
        self._flows: dict[str, Flow] = {}
        self._overdue_at: dict[Request, float] = {}  # request -> the served tokens from which it is overdue
        self._overdue: list[Chunk] = []
        self._served = 0

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"<FairOrder {self._rows} rows, {self.tokens} tokens>"

    def add(self, request: Request) -> None:
        """Add the rows of a request that are not settled."""
        rows = request.rows
        if not len(rows):
            return
        self._flow(request.caller).add(request, rows)
        self._overdue_at[request] = self._served + max(self.max_tokens / 2, self.max_tokens - request.tokens)
        self.tokens += request.tokens
        self._rows += len(rows)

    def put_back(self, chunks: Sequence[Chunk]) -> None:
        """Add chunks again that left before, as overdue ones and first of these."""
        for chunk in chunks:
            chunk.is_overdue = True
            self._flow(chunk.request.caller).count(chunk.request, chunk.tokens)
            self.tokens += chunk.tokens
            self._rows += len(chunk)
        self._overdue[:0] = chunks

    def window(self, max_tokens: int, max_rows: int) -> list[Chunk]:
        """Return the chunks at the head of the fair order that have the outputs of the first one.

        It stops at the chunk that reaches a limit. ``max_rows`` counts chunks with other outputs too.
        """
        chunks: list[Chunk] = []
        for chunk in self._in_order():
            if not chunks or chunk.request.outputs == chunks[0].request.outputs:
                chunks.append(chunk)
                max_tokens -= chunk.tokens
            max_rows -= len(chunk)
            if max_tokens <= 0 or max_rows <= 0:
                break
        return chunks

    def take(self, window: Sequence[Chunk], picked: NDArray[np.int64]) -> list[Chunk]:
        """Remove rows that leave for a worker; return them as one chunk for each request.

        Args:
            window: waiting chunks.
            picked: positions among the rows of all these chunks, ascending.
        """
        ends = np.cumsum([len(chunk) for chunk in window])
        counts = np.searchsorted(picked, ends).tolist()
        taken: dict[Request, list[Chunk]] = {}
        at = begin = 0
        for chunk, end, count in zip(window, ends.tolist(), counts, strict=True):
            if count > at:
                taken.setdefault(chunk.request, []).append(self._take(chunk, picked[at:count] - begin))
            begin, at = end, count
        chunks = [Chunk.joined(parts) for parts in taken.values()]
        waiting = {key: len(flow.waiting) for key, flow in self._flows.items()}  # before any of them leaves
        for chunk in chunks:
            key = chunk.request.caller.key
            flow = self._flows[key]
            flow.serve(chunk, waiting[key])
            self._served += chunk.tokens
            self._count_out(flow, chunk)
        self._find_overdue()
        return chunks

    def discard(self, request: Request) -> list[Chunk]:
        """Remove and return the chunks of a request."""
        flow = self._flows.get(request.caller.key)
        if flow is None or request not in flow.waiting:
            return []
        chunks = flow.chunks_of(request)
        for chunk in chunks:
            flow.remove(chunk)
        chunks += [chunk for chunk in self._overdue if chunk.request is request]
        self._overdue = [chunk for chunk in self._overdue if chunk.request is not request]
        for chunk in chunks:
            flow.forget(chunk)
            self._count_out(flow, chunk)
        return chunks

    def clear(self) -> list[Chunk]:
        """Remove and return all chunks."""
        requests = [request for flow in self._flows.values() for request in flow.waiting]
        return [chunk for request in requests for chunk in self.discard(request)]

    def ahead_of(self, tokens: int, caller: Caller) -> int:
        """Return about how many tokens would leave before the end of a request of ``tokens`` that came now."""
        own = self._flows.get(caller.key)
        ahead = own.ahead_of(tokens) if own else 0
        for flow in self._flows.values():
            if flow is not own:
                not_overdue = sum(chunk.tokens for chunk in flow.chunks)
                ahead += min(not_overdue, int((ahead + tokens) * flow.weight / caller.weight))
        return ahead + sum(chunk.tokens for chunk in self._overdue)

    def _in_order(self) -> Iterator[Chunk]:
        if len(self._flows) == 1:
            (flow,) = self._flows.values()
            return chain(self._overdue, flow.chunks)
        return chain(self._overdue, self._merged())

    def _merged(self) -> Iterator[Chunk]:
        """Yield the chunks of all callers in the order of their shares."""
        flows = [flow for flow in self._flows.values() if flow.chunks]
        heads = [(flow.start, number, 0) for number, flow in enumerate(flows)]
        heapq.heapify(heads)
        while heads:
            start, number, position = heapq.heappop(heads)
            flow = flows[number]
            chunk = flow.chunks[position]
            yield chunk
            if position + 1 < len(flow.chunks):
                heapq.heappush(heads, (start + chunk.tokens / flow.weight, number, position + 1))

    def _flow(self, caller: Caller) -> Flow:
        if caller.key not in self._flows:
            start = min((flow.start for flow in self._flows.values()), default=0.0)
            self._flows[caller.key] = Flow(caller.weight, start)
        return self._flows[caller.key]

    def _take(self, chunk: Chunk, positions: NDArray[np.int64]) -> Chunk:
        """Remove the rows at some positions of a chunk, or the whole chunk if these are all."""
        if len(positions) < len(chunk):
            return chunk.split_off(positions)
        if chunk.is_overdue:
            self._overdue.remove(chunk)
        else:
            self._flows[chunk.request.caller.key].remove(chunk)
        return chunk

    def _count_out(self, flow: Flow, chunk: Chunk) -> None:
        self.tokens -= chunk.tokens
        self._rows -= len(chunk)
        if chunk.request not in flow.waiting:
            self._overdue_at.pop(chunk.request, None)
        if not flow.waiting:
            self._flows.pop(chunk.request.caller.key, None)

    def _find_overdue(self) -> None:
        """Move chunks that have become overdue before all others. Requests become overdue in the order of arrival."""
        while self._overdue_at:
            request = next(iter(self._overdue_at))
            if self._overdue_at[request] > self._served:
                return
            del self._overdue_at[request]
            flow = self._flows[request.caller.key]
            for chunk in flow.chunks_of(request):
                flow.remove(chunk)
                chunk.is_overdue = True
                self._overdue.append(chunk)
