"""What has to be known of a transformer to use it, once it is a black box that some runtime computes."""

from __future__ import annotations

import msgspec


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a transformer, found when torch holds it and kept with its conversion.

    Attributes:
        pad_id: the id that fills rows; models that number positions by it (RoBERTa, MPNet) need the true one.
        positions: the longest input that it has positions for; ``None`` without such a limit.
        vocabulary: number of token embeddings.
        causal: whether a token sees only those before it.
    """

    pad_id: int
    positions: int | None
    vocabulary: int
    causal: bool
