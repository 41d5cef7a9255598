"""Pooling for inputs that lie end to end: the modes of ``pooling``, without a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from embeddings_gateway.backends.hf.network.packed import Packed
from embeddings_gateway.backends.spec import Pooling


def pool(tokens: Tensor, batch: Packed, modes: Sequence[Pooling]) -> Tensor:
    """Pool with each mode and join the results end to end.

    Args:
        tokens: ``[tokens, width]``, any float dtype.
        batch: whose tokens they are.
        modes: at least one.

    Returns:
        fp32 ``[inputs, width * len(modes)]``.
    """
    tokens = tokens.float()
    return torch.cat([MODES[mode](tokens, batch) for mode in modes], dim=-1)


def cls(tokens: Tensor, batch: Packed) -> Tensor:
    """Take the first token's vector."""
    return tokens[batch.starts]


def last(tokens: Tensor, batch: Packed) -> Tensor:
    """Take the last token's vector."""
    return tokens[batch.starts + batch.lengths - 1]


def maximum(tokens: Tensor, batch: Packed) -> Tensor:
    """Take the largest value of each dimension."""
    owners = batch.owners.unsqueeze(-1).expand_as(tokens)
    out = tokens.new_empty(len(batch.starts), tokens.shape[1])
    return out.scatter_reduce(0, owners, tokens, "amax", include_self=False)


def mean(tokens: Tensor, batch: Packed) -> Tensor:
    """Average over the tokens."""
    return _sum(tokens, batch) / batch.lengths.unsqueeze(-1)


def mean_sqrt_len(tokens: Tensor, batch: Packed) -> Tensor:
    """Sum over the tokens, divided by the square root of their number."""
    return _sum(tokens, batch) / batch.lengths.unsqueeze(-1).sqrt()


def weighted_mean(tokens: Tensor, batch: Packed) -> Tensor:
    """Average with weights 1, 2, 3, ... from the first token on (SGPT, arXiv:2202.08904)."""
    weights = batch.lengths * (batch.lengths + 1) / 2
    return _sum(tokens * (batch.places + 1).unsqueeze(-1), batch) / weights.unsqueeze(-1)


MODES: Mapping[Pooling, Callable[[Tensor, Packed], Tensor]] = {
    "cls": cls,
    "last": last,
    "max": maximum,
    "mean": mean,
    "mean_sqrt_len": mean_sqrt_len,
    "weighted_mean": weighted_mean,
}


def _sum(tokens: Tensor, batch: Packed) -> Tensor:
    return tokens.new_zeros(len(batch.starts), tokens.shape[1]).index_add(0, batch.owners, tokens)
