"""PURE: what happens to token ids between the tokenizer and the queue: special tokens, limits, cutting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from embeddings_gateway.backends.base import ModelInfo, TokenIds
from embeddings_gateway.errors import ContextLengthExceeded, InvalidTokenIds


class Truncated(NamedTuple):
    """An input that was too long, as the model takes it.

    Attributes:
        windows: its ids: one window that was cut, or several that hold all of it, each with the special tokens.
        text_tokens: of each window, what is neither special nor a prompt.
        was_cut: whether something of it was cut away.
    """

    windows: Sequence[TokenIds]
    text_tokens: Sequence[int]
    was_cut: bool


def native(ids: Sequence[int], info: ModelInfo) -> TokenIds | InvalidTokenIds:
    """Return ids of the model's own vocabulary with the special tokens that it needs, or what is wrong."""
    if min(ids) < 0 or max(ids) >= info.vocabulary_size:
        return InvalidTokenIds(f"Token ids of this model are 0 to {info.vocabulary_size - 1}.")
    prefix, suffix = info.prefix, info.suffix
    before = () if tuple(ids[: len(prefix)]) == prefix else prefix
    after = () if not suffix or tuple(ids[-len(suffix) :]) == suffix else suffix
    return np.array([*before, *ids, *after], dtype=np.int32)


def too_long(tokens: int, info: ModelInfo, param: str) -> ContextLengthExceeded:
    """Return the error of an input of so many tokens that is not to be cut."""
    # It begins as OpenAI's message does, by which LiteLLM and others know this error from all others.
    return ContextLengthExceeded(
        f"This model's maximum context length is {info.max_tokens} tokens, this input has {tokens}. "
        "Send a shorter one, or set truncate to right, left or mean.",
        param,
    )


def truncate(
    ids: TokenIds, info: ModelInfo, policy: Literal["right", "left", "mean"], param: str, kept: int = 0
) -> Truncated:
    """Return ids no longer than the model takes. What is cut, or spread over windows, is text alone.

    Args:
        ids: of one input that is too long, special tokens included.
        info: the model's facts.
        policy: ``right`` cuts the end of the text, ``left`` its beginning, ``mean`` makes windows of it.
        param: the input's name in an error.
        kept: how many ids at the beginning are special or a prompt; at least the special ones are.

    Raises:
        ContextLengthExceeded: there is no room beside the prompt.
    """
    begin, end = max(kept, len(info.prefix)), len(ids) - len(info.suffix)
    room = info.max_tokens - begin - len(info.suffix)
    if room <= 0:
        raise ContextLengthExceeded("The model's prompt leaves no room for a text.", param)
    match policy:
        case "right":
            parts = [ids[begin : begin + room]]
        case "left":
            parts = [ids[end - room : end]]
        case "mean":
            parts = [ids[at : min(at + room, end)] for at in range(begin, end, room)]
    windows = [np.concatenate([ids[:begin], part, ids[end:]]) for part in parts]
    return Truncated(windows, [len(part) for part in parts], policy != "mean")
