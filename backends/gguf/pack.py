"""Several inputs laid end to end, as llama.cpp reads them. Pure numpy: no engine, no limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import TokenIds

Int32s = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Pack:
    """Tokens of one or more inputs, or some of them; the arrays are parallel, shape ``[tokens]``, int32.

    Attributes:
        ids: the token ids.
        positions: the place of each token in its own input.
        sequences: the index of each token's input.
    """

    ids: Int32s
    positions: Int32s
    sequences: Int32s

    @classmethod
    def of(cls, batch: Sequence[TokenIds]) -> Pack:
        """Lay the inputs of ``batch`` end to end, each with positions from 0."""
        lengths = np.fromiter((len(ids) for ids in batch), dtype=np.int32, count=len(batch))
        starts = np.cumsum(lengths, dtype=np.int32) - lengths
        total = int(lengths.sum())
        return cls(
            ids=np.concatenate(batch, dtype=np.int32, casting="same_kind") if batch else _none(),
            positions=np.arange(total, dtype=np.int32) - np.repeat(starts, lengths),
            sequences=np.repeat(np.arange(len(batch), dtype=np.int32), lengths),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def split_tails(self, tokens: int) -> tuple[Pack, Pack]:
        """Return the inputs without their tails, and the tails: equally many last tokens of each input.

        Only of whole inputs. The tails have ``tokens`` in all at least, where there are as many, but less
        than twice as many; or one of each input, if that is more.
        """
        lengths = np.bincount(self.sequences)
        tail = 1
        while np.minimum(lengths, tail).sum() < min(tokens, len(self)):
            tail *= 2
        in_tail = self.positions >= lengths[self.sequences] - tail
        return self._take(~in_tail), self._take(in_tail)

    def chunks(self, size: int) -> Iterator[Pack]:
        """Yield the tokens in order, at most ``size`` at a time, evenly; an input may go on in the next."""
        count = -(-len(self) // size)
        for k in range(count):
            part = slice(k * len(self) // count, (k + 1) * len(self) // count)
            yield Pack(self.ids[part], self.positions[part], self.sequences[part])

    def _take(self, rows: NDArray[np.bool_]) -> Pack:
        return Pack(self.ids[rows], self.positions[rows], self.sequences[rows])


def _none() -> Int32s:
    return np.empty(0, dtype=np.int32)
