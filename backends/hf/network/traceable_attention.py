"""Attention that can be traced once for inputs of any length, and in which padding never makes NaN.

It is transformers' own for torch, with masks of ours. transformers builds some masks with ``vmap``, which the
tracer cannot follow; and a padding token may see no token at all, where a window of attention ends before the
padding begins. A softmax over nothing is NaN, which the next layer would hand on to every token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from embeddings_gateway.backends.hf.network.packed_attention import UnpackableError, set_attention

TRACEABLE = "traceable"
"""The name under which transformers knows this attention."""
HIDDEN = -1e30
"""Added to the score of a token that is not seen. Finite also in bf16, in which the lowest fp32 is not."""


def use_traceable_attention(transformer: nn.Module) -> None:
    """Have a transformer use it; a transformer whose attention cannot be replaced keeps its own."""
    AttentionInterface.register(TRACEABLE, sdpa_attention_forward)
    AttentionMaskInterface.register(TRACEABLE, finite_mask)
    try:
        set_attention(transformer, TRACEABLE)
    except UnpackableError:
        return


def finite_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    *,
    mask_function: Callable[..., Tensor],
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Tensor:
    """Build the mask of a kind of layer, as transformers asks for it.

    Args:
        batch_size, q_length, kv_length, q_offset, kv_offset: the mask's shape, and where its rows and columns begin.
        mask_function: from indices of input, head, token and seen token to whether it is seen; they broadcast.
        attention_mask: bool ``[inputs, tokens]``, where an input has a token.
        device: of the mask.
        options: how transformers would build it.

    Returns:
        fp32 ``[inputs, 1, tokens, tokens]``, to be added to the scores.
    """
    inputs, heads, tokens, seen_tokens = (
        torch.arange(count, device=device) for count in (batch_size, 1, q_length, kv_length)
    )
    seen = mask_function(
        inputs[:, None, None, None],
        heads[None, :, None, None],
        (tokens + q_offset)[None, None, :, None],
        (seen_tokens + kv_offset)[None, None, None, :],
    )
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, :]
    return torch.where(seen, 0.0, HIDDEN).expand(batch_size, -1, q_length, kv_length)
