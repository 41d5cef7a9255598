"""PURE: about how many tokens inputs have, before they are tokenized."""

from __future__ import annotations

import math

from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.serving.ask import Ask, are_texts

TOKENS_PER_CHAR = 0.25
KNOWN_CHARS = 1000
MEMORY = 0.99


class Estimate:
    """Learns how many tokens a character is from the texts before, the long ones more than the short ones.

    What stands round each text is known and not learned: a short query in many special tokens and the words
    of a prompt says nothing of a long document.
    """

    def __init__(self) -> None:
        self._chars: float = KNOWN_CHARS
        self._tokens: float = KNOWN_CHARS * TOKENS_PER_CHAR

    def of(self, ask: Ask, words: str, info: ModelInfo, *, cuts: bool) -> int:
        """Return about how many tokens the inputs of a request have together.

        Args:
            ask: the request.
            words: of the prompt that goes before each.
            info: the model's facts.
            cuts: whether what is too long is cut.
        """
        inputs, length = len(ask.inputs), sum(map(len, ask.inputs))
        if are_texts(ask.inputs):
            length = math.ceil((length + inputs * len(words)) * self._tokens / self._chars)
        tokens = length + inputs * _special(info)
        return min(tokens, inputs * info.max_tokens) if cuts else tokens

    def learn(self, ask: Ask, words: str, info: ModelInfo, rows: int, tokens: int) -> None:
        """Note how many tokens the texts of a request had, in so many rows with what stands round each."""
        self._chars = MEMORY * self._chars + sum(map(len, ask.inputs)) + rows * len(words)
        self._tokens = MEMORY * self._tokens + max(0, tokens - rows * _special(info))


def _special(info: ModelInfo) -> int:
    return len(info.prefix) + len(info.suffix)
