"""Attention for packed batches, in transformers' models: each input attends to itself alone.

Models hand keyword arguments that they do not know down to their attention. Among these are ``cu_seqlens``
and ``max_seqlen``, under the names that transformers has for its own kernels of this kind
(``FlashAttentionKwargs``).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from embeddings_gateway.backends.hf.silence_transformers import silence_transformers

PACKED = "packed"
"""The name under which transformers knows this attention."""
# What models add to the scores of attention, or do to them, and this attention does not do.
UNSUPPORTED = ("position_bias", "softcap", "s_aux")
Window = tuple[int, int]
"""How many tokens to its left and right a token sees, itself not counted; -1 is all of them."""


class UnpackableError(Exception):
    """The model's attention is not of a kind that packed batches can have."""


def attention_name(transformer: Any) -> str:
    """Return the name of the attention that a transformer uses."""
    return str(transformer.config._attn_implementation)


def set_attention(transformer: Any, name: str) -> None:
    """Have a transformer use :data:`PACKED`, or a name from :func:`attention_name`."""
    # No function is registered that makes masks under this name: then transformers makes none.
    AttentionInterface.register(PACKED, layer_attention)
    with silence_transformers():
        transformer.set_attn_implementation(name)
    # Models with an attention of their own only log that they have not changed it.
    if attention_name(transformer) != name:
        raise UnpackableError("its attention cannot be replaced")


def layer_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Compute the attention of one layer, as transformers asks for it.

    Args:
        module: the layer; it says whether it is causal where ``is_causal`` does not.
        query: ``[1, heads, tokens, width]``.
        key, value: ``[1, groups, tokens, width]``.
        attention_mask: ``None``.
        scaling: of the scores.
        sliding_window: as transformers counts it: a token sees those less than this many away.
        is_causal: whether a token sees only those before it.
        cu_seq_lens_q, max_length_q: ``cu_seqlens`` and ``max_seqlen`` of the batch.
        options: others that transformers hands down; those in ``UNSUPPORTED`` must be absent or ``None``.

    Returns:
        ``[1, tokens, heads, width]``, and no weights.

    Raises:
        UnpackableError: the model needs what this attention does not do.
    """
    unsupported = [name for name in UNSUPPORTED if options.get(name) is not None]
    if attention_mask is not None or unsupported:
        raise UnpackableError(f"its attention has {unsupported[0] if unsupported else 'a mask of its own'}")
    if cu_seq_lens_q is None or max_length_q is None:
        raise UnpackableError("it does not tell its attention where inputs end")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    reach = -1 if sliding_window is None else sliding_window - 1
    # Views of what the projections made: [tokens, heads, width].
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    window = (reach, 0 if causal else reach)
    out = packed_attention(
        *rows, cu_seqlens=cu_seq_lens_q, max_seqlen=max_length_q, scale=scaling, window=window
    )
    return out[None], None


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float | None,
    window: Window,
) -> Tensor:
    """Compute attention over a packed batch.

    On a GPU it is torch's kernel. On a processor it goes through the inputs one by one: slow, but the same
    function, so that all that is built on it can be tested without a GPU.

    Args:
        query: ``[tokens, heads, width]``; on a GPU fp16 or bf16.
        key, value: ``[tokens, groups, width]``, where ``groups`` divides ``heads``.
        cu_seqlens, max_seqlen: as in ``PackedTensors``.
        scale: of the scores; ``None`` is one over the square root of the width.
        window: what each token sees of its own input.

    Returns:
        ``[tokens, heads, width]``.
    """
    if query.is_cuda:
        grouped = query.shape[1] != key.shape[1]
        sequences = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
        options: dict[str, Any] = {"scale": scale, "window_size": window, "enable_gqa": grouped}
        return cast("Tensor", varlen_attn(query, key, value, *sequences, **options))
    rows = []
    for start, end in pairwise(cu_seqlens.tolist()):
        q, k, v = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        mask = _window_mask(end - start, window)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
        rows.append(out[0].transpose(0, 1))
    return torch.cat(rows)


def _window_mask(length: int, window: Window) -> Tensor | None:
    """Return which token (row) sees which (column), bool ``[length, length]``; ``None`` is all."""
    if window == (-1, -1):
        return None
    left, right = (length if reach < 0 else reach for reach in window)
    positions = torch.arange(length)
    ahead = positions - positions[:, None]
    return (ahead >= -left) & (ahead <= right)
