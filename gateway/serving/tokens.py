"""PURE: what happens to token ids between the tokenizer and the queue: special tokens, limits, cutting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from backends.base import ModelInfo, TokenIds
from gateway.config import Truncate
from gateway.errors import ContextLengthExceeded, InvalidRequest, InvalidTokenIds


class Fitted(NamedTuple):
    """Ids that the model takes, and whether something of them was cut away."""

    ids: TokenIds
    truncated: bool


def native(ids: Sequence[int], info: ModelInfo) -> TokenIds | InvalidTokenIds:
    """Return ids of the model's own vocabulary with the special tokens that it needs, or what is wrong."""
    if min(ids) < 0 or max(ids) >= info.vocabulary_size:
        return InvalidTokenIds(f"Token ids of this model are 0 to {info.vocabulary_size - 1}.")
    prefix, suffix = info.prefix, info.suffix
    before = () if tuple(ids[: len(prefix)]) == prefix else prefix
    after = () if not suffix or tuple(ids[-len(suffix) :]) == suffix else suffix
    return np.array([*before, *ids, *after], dtype=np.int32)


def fit(ids: TokenIds, info: ModelInfo, truncate: Truncate, where: str) -> Fitted:
    """Return ids no longer than the model takes; what is cut lies between the special tokens.

    Args:
        ids: of one input, special tokens included.
        info: the model's facts.
        truncate: ``right`` cuts the end of the text, ``left`` its beginning, ``error`` refuses.
        where: the input's name in an error.

    Raises:
        ContextLengthExceeded: too long, and ``truncate`` is ``error``.
        InvalidRequest: a vocabulary may have no token for a blank, and a model fewer tokens than its
            tokenizer.
    """
    if len(ids) == 0:
        raise InvalidRequest("The model has no token for this input.", where)
    if int(ids.max()) >= info.vocabulary_size:
        raise InvalidRequest("The model has no vector for a token of this input.", where)
    excess = len(ids) - info.max_tokens
    if excess <= 0:
        return Fitted(ids, False)
    if truncate == "error":
        raise ContextLengthExceeded(
            f"The model takes {info.max_tokens} tokens, this input has {len(ids)}. "
            "Send a shorter one, or set truncate to right or left.",
            where,
        )
    begin, end = len(info.prefix), len(ids) - len(info.suffix)
    body = ids[begin : end - excess] if truncate == "right" else ids[begin + excess : end]
    return Fitted(np.concatenate([ids[:begin], body, ids[end:]]), True)
