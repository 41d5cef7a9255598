"""PURE: what is decided about inputs before and after they are tokenized.

Which prompt goes before them, about how many tokens they have, and how inputs that are too long are cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from embeddings_gateway.backends.base import ModelInfo, TokenIds
from embeddings_gateway.config import InputType
from embeddings_gateway.errors import ContextLengthExceeded, InvalidRequest, InvalidTokenIds
from embeddings_gateway.serving.served import Inputs, are_pairs, are_texts

NAMES: Mapping[InputType, Sequence[str]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""Input type -> the names of a model's prompt for it, as sentence-transformers looks for them, in its order."""


class Prompt(NamedTuple):
    """What goes before each text, and its name, ``None`` if there is no prompt."""

    name: str | None
    text: str


NO_PROMPT = Prompt(None, "")


def choose_prompt(input_type: InputType | None, info: ModelInfo) -> Prompt:
    """Return the prompt for an input type.

    A model that has a prompt for one input type wants none for the other. A model without prompts ignores the
    input type.

    Raises:
        InvalidRequest: the model has prompts, but none for any input type.
    """
    name = info.default_prompt
    if input_type is not None and info.prompts:
        name = next((name for name in NAMES[input_type] if name in info.prompts), None)
        if name is None and not any(name in info.prompts for names in NAMES.values() for name in names):
            known = ", ".join(sorted(info.prompts))
            raise InvalidRequest(
                f"The model has no prompt for queries or documents; it has: {known}.", "input_type"
            )
    return NO_PROMPT if name is None else Prompt(name, info.prompts[name])


def prompt_tokens(ids: TokenIds, prompt: TokenIds, info: ModelInfo) -> int:
    """Return how many ids at the beginning of an input belong to its prompt, special tokens included.

    Args:
        ids: of a prompt and a text together.
        prompt: ids of the same prompt alone. Its last token may have become part of the text's first.
        info: the model's facts.
    """
    alone = prompt[: len(prompt) - len(info.suffix)]
    common = min(len(alone), len(ids))
    differing = np.flatnonzero(alone[:common] != ids[:common])
    same = int(differing[0]) if len(differing) else common
    return max(same, len(info.prefix))


TOKENS_PER_CHAR = 0.25
KNOWN_CHARS = 1000
DECAY = 0.99


class Estimate:
    """Estimates the tokens of a call from its characters. Learns the ratio from earlier calls.

    Special tokens and prompts are left out of the ratio: a short query with a long prompt says nothing about
    a long document.
    """

    def __init__(self) -> None:
        self._chars: float = KNOWN_CHARS
        self._tokens: float = KNOWN_CHARS * TOKENS_PER_CHAR

    def of(self, inputs: Inputs, prompt: str, info: ModelInfo, *, cuts: bool) -> int:
        """Return about how many tokens the inputs have together; ``cuts``: whether long ones are cut."""
        count, length = len(inputs), _length(inputs)
        if are_texts(inputs) or are_pairs(inputs):
            length = math.ceil((length + count * len(prompt)) * self._tokens / self._chars)
        tokens = length + count * _special(info)
        return min(tokens, count * info.max_tokens) if cuts else tokens

    def learn(self, inputs: Inputs, prompt: str, info: ModelInfo, rows: int, tokens: int) -> None:
        """Learn from a call whose texts had so many tokens in so many rows, special tokens and prompts included."""
        self._chars = DECAY * self._chars + _length(inputs) + rows * len(prompt)
        self._tokens = DECAY * self._tokens + max(0, tokens - rows * _special(info))


def _length(inputs: Inputs) -> int:
    """Return the characters or token ids of all inputs."""
    if are_pairs(inputs):
        return sum(len(text) + len(pair) for text, pair in inputs)
    return sum(map(len, inputs))


def _special(info: ModelInfo) -> int:
    return len(info.prefix) + len(info.suffix)


class Truncated(NamedTuple):
    """An input that was too long, in windows that the model takes.

    Attributes:
        windows: ids of one window with a part of the text, or of several with all of it; each has the special
            tokens and the prompt.
        text_tokens: of each window, the tokens that are neither special nor of a prompt.
        was_cut: whether some text was cut away.
    """

    windows: Sequence[TokenIds]
    text_tokens: Sequence[int]
    was_cut: bool


def native(ids: Sequence[int], info: ModelInfo) -> TokenIds | InvalidTokenIds:
    """Return ids of the model's own vocabulary with the special tokens that they lack, or what is wrong."""
    if min(ids) < 0 or max(ids) >= info.vocabulary_size:
        return InvalidTokenIds(f"Token ids of this model are 0 to {info.vocabulary_size - 1}.")
    prefix, suffix = info.prefix, info.suffix
    before = () if tuple(ids[: len(prefix)]) == prefix else prefix
    after = () if not suffix or tuple(ids[-len(suffix) :]) == suffix else suffix
    return np.array([*before, *ids, *after], dtype=np.int32)


def tokens_left(
    ids: TokenIds, info: ModelInfo, policy: Literal["right", "left", "mean"], leading: int = 0
) -> int:
    """Return how many tokens the windows of :func:`truncate` have together; 0 if the prompt leaves no room."""
    repeated = max(leading, len(info.prefix)) + len(info.suffix)
    room, text = info.max_tokens - repeated, len(ids) - repeated
    if room <= 0:
        return 0
    return text + repeated * math.ceil(text / room) if policy == "mean" else info.max_tokens


def truncate(
    ids: TokenIds, info: ModelInfo, policy: Literal["right", "left", "mean"], param: str, leading: int = 0
) -> Truncated:
    """Return windows that the model takes. Only text is cut or divided; prompt and special tokens are repeated.

    Args:
        ids: of one input that is too long, special tokens included.
        info: the model's facts.
        policy: ``right`` cuts the end of the text, ``left`` its beginning, ``mean`` makes windows of it.
        param: the input's name in an error.
        leading: how many ids at the beginning are special or of a prompt; the special ones always count.

    Raises:
        ContextLengthExceeded: the prompt leaves no room.
    """
    begin, end = max(leading, len(info.prefix)), len(ids) - len(info.suffix)
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
