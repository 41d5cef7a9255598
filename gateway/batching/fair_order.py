"""Orders waiting rows fairly between callers, and between the requests of one caller."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.batching.chunks import Chunk, ChunkOrder
from embeddings_gateway.batching.request import Caller, Request, Rows

CHUNK_TOKENS = 4096
"""The tokens of a chunk: a few batches on a processor. Smaller chunks cost the queue more for each input."""

MAX_FLOWS = 256
"""Callers that have a share of their own at a time; those that come beside them share one more."""


class Flow:
    """The waiting rows of one caller, in a fair order between its requests.

    Fair queueing in virtual time (Demers, Keshav, Shenker 1989): virtual time runs at the speed at which each
    waiting request of the caller is served. The chunk that leaves next is the one that would finish first if all
    requests were served at once in equal shares. A small request is a single chunk. So requests of similar size
    finish one after the other, instead of all together at the end.

    Such shares alone would let a stream of small requests hold up a large one for as long as the stream lasts. So a
    request becomes overdue once the caller has been served as many tokens since it came as the queue can hold besides
    it, at least half the queue. Overdue requests go first, so a request waits little longer than a full queue takes.

    Args:
        key: of the caller.
        weight: of the caller.
        start: see below.
        max_tokens: the most that may wait.

    Attributes:
        key: of the caller.
        start: the key of the fair order between callers; lower leaves earlier.
        weight: of the caller.
        waiting: request -> its waiting chunks, in order.
    """

    def __init__(self, key: str | None, weight: float, start: float, max_tokens: float) -> None:
        self.key = key
        self.start = start
        self.weight = weight
        self.waiting: dict[Request, dict[Chunk, None]] = {}
        self._max_tokens = max_tokens
        self._chunks = ChunkOrder()  # those that are not overdue
        self._overdue: dict[Chunk, None] = {}  # in order
        self._overdue_tokens = 0
        self._overdue_at: dict[Request, float] = {}  # request -> the served tokens from which it is overdue
        self._served = 0
        self._virtual_time = 0.0
        self._numbers = itertools.count()

    def __iter__(self) -> Iterator[Chunk]:
        return chain(self._overdue, self._chunks)

    @property
    def tokens(self) -> int:
        """Tokens of all that waits."""
        return self._chunks.tokens + self._overdue_tokens

    def add(self, request: Request, rows: Rows) -> None:
        """Add the rows of a request, in chunks."""
        lengths = request.batch.lengths
        if len(rows) < len(lengths):
            lengths = lengths[rows]
        patience = max(self._max_tokens / 2, self._max_tokens - request.tokens)
        self._overdue_at[request] = self._served + patience
        if request.tokens <= CHUNK_TOKENS:
            self._add_chunk(request, rows, lengths, request.tokens, tokens=request.tokens)
            return
        pieces = (np.cumsum(lengths, dtype=np.int64) - 1) // CHUNK_TOKENS
        bounds = [0, *(np.flatnonzero(np.diff(pieces)) + 1).tolist(), len(rows)]
        for begin, end in pairwise(bounds):
            tokens_before_end = min((int(pieces[end - 1]) + 1) * CHUNK_TOKENS, request.tokens)
            self._add_chunk(request, rows[begin:end], lengths[begin:end], tokens_before_end)

    def put_back(self, chunks: Sequence[Chunk]) -> None:
        """Add chunks again that left before, as overdue ones and first of these. They were served in vain."""
        for chunk in chunks:
            chunk.is_overdue = True
            self._count(chunk)
            self._overdue_tokens += chunk.tokens
            self.start -= chunk.tokens / self.weight
        self._overdue = dict.fromkeys([*chunks, *self._overdue])

    def take(self, chunk: Chunk, positions: NDArray[np.int64]) -> Chunk:
        """Remove the rows at some positions of a chunk, or the whole chunk if these are all. They still count."""
        if len(positions) == len(chunk):
            self.remove(chunk)
            return chunk
        if not chunk.is_overdue:
            return self._chunks.split_off(chunk, positions)
        taken = chunk.split_off(positions)
        self._overdue_tokens -= taken.tokens
        return taken

    def remove(self, chunk: Chunk) -> None:
        """Remove a chunk from the order. It still counts."""
        if chunk.is_overdue:
            del self._overdue[chunk]
            self._overdue_tokens -= chunk.tokens
        else:
            self._chunks.remove(chunk)

    def forget(self, request: Request, chunks: Sequence[Chunk]) -> None:
        """Stop counting chunks of a request, or parts of some, which were not counted."""
        waiting = self.waiting[request]
        for chunk in chunks:
            waiting.pop(chunk, None)
        if not waiting:
            del self.waiting[request]
            self._overdue_at.pop(request, None)

    def serve(self, tokens: int, among: int) -> None:
        """Count tokens that left for a worker, while so many requests of the caller waited."""
        self._virtual_time += tokens / among
        self.start += tokens / self.weight
        self._served += tokens

    def find_overdue(self) -> None:
        """Move chunks that have become overdue before all others. Requests become overdue in the order of arrival."""
        while self._overdue_at:
            request = next(iter(self._overdue_at))
            if self._overdue_at[request] > self._served:
                return
            del self._overdue_at[request]
            for chunk in self.waiting[request]:
                if not chunk.is_overdue:
                    self._chunks.remove(chunk)
                    chunk.is_overdue = True
                    self._overdue[chunk] = None
                    self._overdue_tokens += chunk.tokens

    def ahead_of(self, tokens: int) -> int:
        """Return how many tokens would leave before the end of a request of ``tokens`` that came now."""
        return self._overdue_tokens + self._chunks.tokens_until(self._virtual_time + tokens)

    def _count(self, chunk: Chunk) -> None:
        self.waiting.setdefault(chunk.request, {})[chunk] = None

    def _add_chunk(
        self,
        request: Request,
        rows: Rows,
        lengths: NDArray[np.int32],
        tokens_before_end: int,
        *,
        tokens: int | None = None,
    ) -> None:
        place = (self._virtual_time + tokens_before_end, next(self._numbers))
        chunk = Chunk(request, rows, lengths, place, False, tokens=tokens)
        self._chunks.add(chunk)
        self._count(chunk)


class FairOrder:
    """The waiting rows of one traffic class, in a fair order between callers.

    Start-time fair queueing (Goyal, Vin, Cheng 1996): each caller has a start, which grows by the tokens that it
    is served, divided by its weight. The lowest start goes first. A caller that had nothing waiting begins at the
    lowest start of the others.

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
        self._flows: dict[str | None, Flow] = {}  # by caller; ``None`` for all beside ``MAX_FLOWS``
        self._flow_of: dict[Request, Flow] = {}

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"<FairOrder {self._rows} rows, {self.tokens} tokens>"

    def add(self, request: Request) -> None:
        """Add the rows of a request that are not settled."""
        rows = request.rows
        if not len(rows):
            return
        self._flow(request).add(request, rows)
        self.tokens += request.tokens
        self._rows += len(rows)

    def put_back(self, chunks: Sequence[Chunk]) -> None:
        """Add chunks again that left before. They go before all others of their callers."""
        for flow, lost in itertools.groupby(chunks, key=lambda chunk: self._flow(chunk.request)):
            flow.put_back(list(lost))
        self.tokens += sum([chunk.tokens for chunk in chunks])
        self._rows += sum(map(len, chunks))

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
                part = self._flow_of[chunk.request].take(chunk, picked[at:count] - begin)
                taken.setdefault(chunk.request, []).append(part)
            begin, at = end, count
        flows = {request: self._flow_of[request] for request in taken}
        among = {flow: len(flow.waiting) for flow in flows.values()}  # before any of them leaves
        for request, parts in taken.items():
            flow = flows[request]
            tokens = sum([part.tokens for part in parts])
            flow.serve(tokens, among[flow])
            self._count_out(flow, request, parts)
        for flow in among:
            flow.find_overdue()
        return [Chunk.joined(parts) for parts in taken.values()]

    def discard(self, request: Request) -> list[Chunk]:
        """Remove and return the chunks of a request."""
        flow = self._flow_of.get(request)
        if flow is None:
            return []
        chunks = list(flow.waiting[request])
        for chunk in chunks:
            flow.remove(chunk)
        self._count_out(flow, request, chunks)
        return chunks

    def clear(self) -> list[Chunk]:
        """Remove and return all chunks."""
        return [chunk for request in list(self._flow_of) for chunk in self.discard(request)]

    def ahead_of(self, tokens: int, caller: Caller) -> int:
        """Return about how many tokens would leave before the end of a request of ``tokens`` that came now."""
        own = self._flows.get(caller.key)
        ahead = own.ahead_of(tokens) if own else 0
        for flow in self._flows.values():
            if flow is not own:
                ahead += min(flow.tokens, int((ahead + tokens) * flow.weight / caller.weight))
        return ahead

    def _in_order(self) -> Iterator[Chunk]:
        if len(self._flows) == 1:
            (flow,) = self._flows.values()
            return iter(flow)
        return self._merged()

    def _merged(self) -> Iterator[Chunk]:
        """Yield the chunks of all callers in the order of their shares."""
        flows = list(self._flows.values())
        chunks = [iter(flow) for flow in flows]
        heads = [(flow.start, number, next(chunks[number])) for number, flow in enumerate(flows)]
        heapq.heapify(heads)
        while heads:
            start, number, chunk = heads[0]
            yield chunk
            if (following := next(chunks[number], None)) is None:
                heapq.heappop(heads)
            else:
                start += chunk.tokens / flows[number].weight
                heapq.heapreplace(heads, (start, number, following))

    def _flow(self, request: Request) -> Flow:
        """Return the flow of a request: that of its caller, or the one that further callers share."""
        if (flow := self._flow_of.get(request)) is not None:
            return flow
        caller = request.caller
        key = caller.key if caller.key in self._flows or len(self._flows) < MAX_FLOWS else None
        if (flow := self._flows.get(key)) is None:
            start = min((flow.start for flow in self._flows.values()), default=0.0)
            flow = self._flows[key] = Flow(key, caller.weight, start, self.max_tokens)
        self._flow_of[request] = flow
        return flow

    def _count_out(self, flow: Flow, request: Request, chunks: Sequence[Chunk]) -> None:
        """Stop counting chunks of a request, or parts of some."""
        self.tokens -= sum([chunk.tokens for chunk in chunks])
        self._rows -= sum(map(len, chunks))
        flow.forget(request, chunks)
        if request not in flow.waiting:
            del self._flow_of[request]
        if not flow.waiting:
            del self._flows[flow.key]
