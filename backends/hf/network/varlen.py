"""Attention over inputs that lie end to end, each of them seeing itself alone.

On a GPU it is torch's kernel. On a processor it is one input after the other: slow, but the same function, so
that all that is built on it can be run and tested without a GPU.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

Window = tuple[int, int]
"""How many tokens to its left and right a token sees, itself not counted; -1 is all of them."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    bounds: Tensor,
    longest: int,
    scale: float | None,
    window: Window,
) -> Tensor:
    """Compute attention.

    Args:
        query: ``[tokens, heads, width]``; on a GPU fp16 or bf16.
        key, value: ``[tokens, groups, width]``, where ``groups`` divides ``heads``.
        bounds, longest: as in :class:`embeddings_gateway.backends.hf.network.packed.Packed`.
        scale: of the scores; ``None`` is one over the square root of the width.
        window: what each token sees of its own input.

    Returns:
        ``[tokens, heads, width]``.
    """
    if query.is_cuda:
        grouped = query.shape[1] != key.shape[1]
        places = (bounds, bounds, longest, longest)
        options: dict[str, Any] = {"scale": scale, "window_size": window, "enable_gqa": grouped}
        return cast("Tensor", varlen_attn(query, key, value, *places, **options))
    rows = []
    for start, end in pairwise(bounds.tolist()):
        one, two, three = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        seen = _seen(end - start, window)
        out = scaled_dot_product_attention(one, two, three, attn_mask=seen, scale=scale, enable_gqa=True)
        rows.append(out[0].transpose(0, 1))
    return torch.cat(rows)


def _seen(length: int, window: Window) -> Tensor | None:
    """Return which token (row) sees which (column), bool ``[length, length]``; ``None`` is all."""
    if window == (-1, -1):
        return None
    left, right = (length if reach < 0 else reach for reach in window)
    places = torch.arange(length)
    ahead = places - places[:, None]
    return (ahead >= -left) & (ahead <= right)
