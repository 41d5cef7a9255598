"""A packed batch: several inputs end to end, without padding, with their positions and their pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from embeddings_gateway.backends.hf.network.encoder import PositionOffset
from embeddings_gateway.backends.spec import Pooling


@dataclass(frozen=True)
class PackedTensors:
    """A packed batch on the device that computes it. No property makes the device wait.

    Attributes:
        ids: int64 ``[tokens]``, one input after the other; each has one token at least.
        cu_seqlens: int32 ``[inputs + 1]``, from 0: input ``i`` is ``ids[cu_seqlens[i] : cu_seqlens[i + 1]]``.
        max_seqlen: tokens of the longest input.
    """

    ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int

    @cached_property
    def starts(self) -> Tensor:
        """Where each input begins, int64 ``[inputs]``."""
        return self.cu_seqlens[:-1].long()

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each input, int64 ``[inputs]``."""
        return self.cu_seqlens.diff().long()

    @cached_property
    def sequence_ids(self) -> Tensor:
        """The input that each token belongs to, int64 ``[tokens]``."""
        return torch.repeat_interleave(self.lengths, output_size=self.ids.shape[0])

    @cached_property
    def position_ids(self) -> Tensor:
        """How many tokens of its own input stand before each token, int64 ``[tokens]``."""
        return torch.arange(self.ids.shape[0], device=self.ids.device) - self.starts[self.sequence_ids]


def position_ids(batch: PackedTensors, offset: PositionOffset | None) -> Tensor:
    """Return the position that each token has when its input is alone, int64 ``[tokens]``."""
    if offset is None:
        return batch.position_ids
    counted = (batch.ids != offset.padding).long()
    through = counted.cumsum(0)
    before = (through - counted)[batch.starts][batch.sequence_ids]
    return (through - before) * counted + offset.padding


def packed_pooling(tokens: Tensor, batch: PackedTensors, modes: Sequence[Pooling]) -> Tensor:
    """Pool as ``network.pool`` does: from ``[tokens, width]`` to fp32 ``[inputs, width * len(modes)]``."""
    tokens = tokens.float()
    return torch.cat([MODES[mode](tokens, batch) for mode in modes], dim=-1)


def _sum(tokens: Tensor, batch: PackedTensors) -> Tensor:
    return tokens.new_zeros(len(batch.starts), tokens.shape[1]).index_add(0, batch.sequence_ids, tokens)


def _maximum(tokens: Tensor, batch: PackedTensors) -> Tensor:
    sequence_ids = batch.sequence_ids.unsqueeze(-1).expand_as(tokens)
    out = tokens.new_empty(len(batch.starts), tokens.shape[1])
    return out.scatter_reduce(0, sequence_ids, tokens, "amax", include_self=False)


def _weighted_mean(tokens: Tensor, batch: PackedTensors) -> Tensor:
    weights = batch.lengths * (batch.lengths + 1) / 2
    return _sum(tokens * (batch.position_ids + 1).unsqueeze(-1), batch) / weights.unsqueeze(-1)


MODES: Mapping[Pooling, Callable[[Tensor, PackedTensors], Tensor]] = {
    "cls": lambda tokens, batch: tokens[batch.starts],
    "last": lambda tokens, batch: tokens[batch.starts + batch.lengths - 1],
    "max": _maximum,
    "mean": lambda tokens, batch: _sum(tokens, batch) / batch.lengths.unsqueeze(-1),
    "mean_sqrt_len": lambda tokens, batch: _sum(tokens, batch) / batch.lengths.unsqueeze(-1).sqrt(),
    "weighted_mean": _weighted_mean,
}
