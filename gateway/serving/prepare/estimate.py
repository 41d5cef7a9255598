"""PURE: about how many tokens inputs have, before they are tokenized."""

from __future__ import annotations

import math

from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.serving.served import Inputs, are_pairs, are_texts

TOKENS_PER_CHAR = 0.25
KNOWN_CHARS = 1000
DECAY = 0.99


class Estimate:
    """Learns how many tokens a character is from the texts before, from long ones more than from short ones.

    What stands round each text is known and not learned: a short query in many special tokens and the words
    of a prompt says nothing of a long document.
    """

    def __init__(self) -> None:
        self._chars: float = KNOWN_CHARS
        self._tokens: float = KNOWN_CHARS * TOKENS_PER_CHAR

    def of(self, inputs: Inputs, prompt: str, info: ModelInfo, *, cuts: bool) -> int:
        """Return about how many tokens the inputs of a call have together.

        Args:
            inputs: of the call.
            prompt: what goes before each text.
            info: the model's facts.
            cuts: whether what is too long is cut.
        """
        count, length = len(inputs), _length(inputs)
        if are_texts(inputs) or are_pairs(inputs):
            length = math.ceil((length + count * len(prompt)) * self._tokens / self._chars)
        tokens = length + count * _special(info)
        return min(tokens, count * info.max_tokens) if cuts else tokens

    def learn(self, inputs: Inputs, prompt: str, info: ModelInfo, rows: int, tokens: int) -> None:
        """Note how many tokens the texts of a call had, in so many rows with what stands round each."""
        self._chars = DECAY * self._chars + _length(inputs) + rows * len(prompt)
        self._tokens = DECAY * self._tokens + max(0, tokens - rows * _special(info))


def _length(inputs: Inputs) -> int:
    """Return the characters or token ids of all inputs."""
    if are_pairs(inputs):
        return sum(len(text) + len(pair) for text, pair in inputs)
    return sum(map(len, inputs))


def _special(info: ModelInfo) -> int:
    return len(info.prefix) + len(info.suffix)
