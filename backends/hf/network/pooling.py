"""From one vector per token to one per input, in fp32 whatever the model computes in.

Every mode goes by the mask alone, so padding on the left, on the right or none gives the same vector.
Same formulas as sentence-transformers' Pooling module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from embeddings_gateway.backends.spec import Pooling


def pool(tokens: Tensor, mask: Tensor, modes: Sequence[Pooling]) -> Tensor:
    """Pool with each mode and concatenate the results.

    Args:
        tokens: ``[inputs, tokens, width]``, any float dtype; where the mask is 0, anything.
        mask: ``[inputs, tokens]``, 1 for a token and 0 for padding; at least one 1 in each row, without gaps.
        modes: at least one.

    Returns:
        fp32 ``[inputs, width * len(modes)]``.
    """
    tokens = tokens.float()
    weights = mask.to(tokens.dtype)
    return torch.cat([MODES[mode](tokens, weights) for mode in modes], dim=-1)


def cls(tokens: Tensor, mask: Tensor) -> Tensor:
    """Take the first token's vector."""
    return _token(tokens, mask.argmax(dim=1))


def last(tokens: Tensor, mask: Tensor) -> Tensor:
    """Take the last token's vector."""
    return _token(tokens, mask.shape[1] - 1 - mask.flip(1).argmax(dim=1))


def maximum(tokens: Tensor, mask: Tensor) -> Tensor:
    """Take the largest value of each dimension."""
    return tokens.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)


def mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average over the tokens."""
    return _sum(tokens, mask) / mask.sum(dim=1, keepdim=True)


def mean_sqrt_len(tokens: Tensor, mask: Tensor) -> Tensor:
    """Sum over the tokens, divided by the square root of their number."""
    return _sum(tokens, mask) / mask.sum(dim=1, keepdim=True).sqrt()


def weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average with weights 1, 2, 3, ... from the first token on (SGPT, arXiv:2202.08904)."""
    weights = mask.cumsum(dim=1) * mask
    return _sum(tokens, weights) / weights.sum(dim=1, keepdim=True)


MODES: Mapping[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": cls,
    "last": last,
    "max": maximum,
    "mean": mean,
    "mean_sqrt_len": mean_sqrt_len,
    "weighted_mean": weighted_mean,
}


def _sum(tokens: Tensor, weights: Tensor) -> Tensor:
    weights = weights.unsqueeze(-1)
    # Filled, not only multiplied by 0: attention over nothing makes NaN, which would outlive the product.
    return (tokens.masked_fill(weights == 0, 0.0) * weights).sum(dim=1)


def _token(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index.view(-1, 1, 1).expand(-1, 1, tokens.shape[2])).squeeze(1)
