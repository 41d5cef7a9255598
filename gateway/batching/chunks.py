"""PURE: rows of one request that wait together, and many of them in order.

Rows wait in chunks: a request of 2000 inputs takes about twenty objects instead of 2000.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.batching.request import Request, Rows

MAX_BLOCK = 512
"""Chunks of a block, at most."""

_place = attrgetter("place")


class Chunk:
    """Some rows of one request that wait, or are computed, together.

    Attributes:
        request: to which they belong.
        rows: int64 ``[n]``.
        lengths: int32 ``[n]``, the tokens of each row.
        tokens: of all rows; they are added up unless they are known.
        place: the key of the fair order between the requests of a caller, its virtual finish and a number that no
            other chunk has; lower leaves earlier.
        is_overdue: whether it goes before all chunks that are not overdue.
    """

    __slots__ = ("is_overdue", "lengths", "place", "request", "rows", "tokens")

    def __init__(
        self,
        request: Request,
        rows: Rows,
        lengths: NDArray[np.int32],
        place: tuple[float, int],
        is_overdue: bool,
        *,
        tokens: int | None = None,
    ) -> None:
        self.request = request
        self.rows = rows
        self.lengths = lengths
        self.tokens = int(lengths.sum()) if tokens is None else tokens
        self.place = place
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
        return cls(first.request, rows, lengths, first.place, first.is_overdue)

    def part(self, positions: NDArray[np.int64]) -> Chunk:
        """Return the rows at some positions as a chunk with the same place in the order."""
        rows, lengths = self.rows[positions], self.lengths[positions]
        return Chunk(self.request, rows, lengths, self.place, self.is_overdue)

    def split_off(self, positions: NDArray[np.int64]) -> Chunk:
        """Return the rows at some positions, and keep the others."""
        taken = self.part(positions)
        stays = np.ones(len(self.rows), np.bool_)
        stays[positions] = False
        self.rows, self.lengths = self.rows[stays], self.lengths[stays]
        self.tokens -= taken.tokens
        return taken


class ChunkOrder:
    """Chunks, ascending by their places, in blocks whose tokens are known.

    To add or remove a chunk, or to sum up tokens, takes as long as for one block. So a client that leaves costs no
    pass over all that waits.

    Attributes:
        tokens: of all chunks.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._blocks: list[list[Chunk]] = []
        self._last: list[tuple[float, int]] = []  # the last place of each block
        self._tokens: list[int] = []  # of each block

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def __iter__(self) -> Iterator[Chunk]:
        return chain.from_iterable(self._blocks)

    def add(self, chunk: Chunk) -> None:
        """Add a chunk at its place."""
        number = self._block_of(chunk)
        if number == len(self._blocks):
            if not number or len(self._blocks[-1]) >= MAX_BLOCK:
                self._insert_block(number, [chunk])
                return
            number -= 1
        block = self._blocks[number]
        insort(block, chunk, key=_place)
        self._last[number] = block[-1].place
        self._count(number, chunk.tokens)
        if len(block) > MAX_BLOCK:
            self._split(number)

    def remove(self, chunk: Chunk) -> None:
        """Remove a chunk."""
        number = self._block_of(chunk)
        block = self._blocks[number]
        self._count(number, -chunk.tokens)
        if len(block) == 1:
            del self._blocks[number], self._last[number], self._tokens[number]
            return
        del block[bisect_left(block, chunk.place, key=_place)]
        self._last[number] = block[-1].place

    def split_off(self, chunk: Chunk, positions: NDArray[np.int64]) -> Chunk:
        """Return the rows at some positions of a chunk, which keeps the others."""
        taken = chunk.split_off(positions)
        self._count(self._block_of(chunk), -taken.tokens)
        return taken

    def tokens_until(self, finish: float) -> int:
        """Return the tokens of all chunks up to a virtual finish."""
        until = (finish, math.inf)
        number = bisect_right(self._last, until)
        tokens = sum(self._tokens[:number])
        if number < len(self._blocks):
            block = self._blocks[number]
            tokens += sum([chunk.tokens for chunk in block[: bisect_right(block, until, key=_place)]])
        return tokens

    def _block_of(self, chunk: Chunk) -> int:
        return bisect_left(self._last, chunk.place)

    def _count(self, number: int, tokens: int) -> None:
        self._tokens[number] += tokens
        self.tokens += tokens

    def _split(self, number: int) -> None:
        """Divide a block in two."""
        block = self._blocks[number]
        second = block[len(block) // 2 :]
        del block[len(block) // 2 :]
        self._last[number] = block[-1].place
        self._count(number, -sum([chunk.tokens for chunk in second]))
        self._insert_block(number + 1, second)

    def _insert_block(self, number: int, block: list[Chunk]) -> None:
        self._blocks.insert(number, block)
        self._last.insert(number, block[-1].place)
        self._tokens.insert(number, 0)
        self._count(number, sum([chunk.tokens for chunk in block]))
