"""An attention for transformers' models that knows where inputs end, so that they can lie end to end.

Models hand the keyword arguments that they do not know down to it, and among these are the bounds, under the
names that transformers has for its own kernels of this kind (``FlashAttentionKwargs``).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from embeddings_gateway.backends.hf.network import varlen
from embeddings_gateway.backends.hf.network.quiet import quiet

PACKED = "packed"
# What models add to the scores of attention, or do to them, and this attention does not.
FOREIGN = ("position_bias", "softcap", "s_aux")


class UnpackableError(Exception):
    """The model's attention is not of a kind that inputs can be laid end to end for."""


def name_of(transformer: Any) -> str:
    """Return the name of the attention that a transformer uses."""
    return str(transformer.config._attn_implementation)


def choose(transformer: Any, name: str) -> None:
    """Have a transformer use another attention.

    Args:
        transformer: a model of transformers.
        name: :data:`PACKED`, or what :func:`name_of` told.

    Raises:
        UnpackableError: its attention cannot be chosen.
    """
    # No function is registered that makes masks under this name: then transformers makes none.
    AttentionInterface.register(PACKED, attend)
    with quiet():
        transformer.set_attn_implementation(name)
    # Models with an attention of their own only log that they have not changed it.
    if name_of(transformer) != name:
        raise UnpackableError("its attention cannot be replaced")


def attend(
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
    **others: object,
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
        cu_seq_lens_q, max_length_q: ``bounds`` and ``longest`` of the batch.
        others: what does not matter, and what must not be there.

    Returns:
        ``[1, tokens, heads, width]``, and no weights.

    Raises:
        UnpackableError: the model wants of its attention what this one does not do.
    """
    foreign = [name for name in FOREIGN if others.get(name) is not None]
    if attention_mask is not None or foreign:
        raise UnpackableError(f"its attention has {foreign[0] if foreign else 'a mask of its own'}")
    if cu_seq_lens_q is None or max_length_q is None:
        raise UnpackableError("it does not tell its attention where inputs end")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    reach = -1 if sliding_window is None else sliding_window - 1
    # Views of what the projections made: [tokens, heads, width].
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    window = (reach, 0 if causal else reach)
    out = varlen.attend(*rows, bounds=cu_seq_lens_q, longest=max_length_q, scale=scaling, window=window)
    return out[None], None
