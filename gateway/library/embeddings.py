"""What became of many texts, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from embeddings_gateway.backends.base import Vectors
from embeddings_gateway.errors import GatewayError
from embeddings_gateway.library.quality import Quality, examine


class Embeddings(NamedTuple):
    """The vectors of texts, in the order of the texts.

    Attributes:
        vectors: float32 ``[texts, dimensions]``; row ``i`` belongs to text ``i``. Rows of texts that failed
            are NaN.
        errors: text -> why it has no vector; empty unless ``partial`` was asked for.
        model: which made them.
        space: fingerprint of the embedding space: vectors of two spaces must not be compared.
        prompt: the name of the prompt that went before the texts, if one did.
        tokens: what the model saw, special tokens included.
        truncated: texts that were cut.
        averaged: texts whose vectors are averages of several windows.
        seconds: how long it took.
    """

    vectors: Vectors
    errors: Mapping[int, GatewayError]
    model: str
    space: str
    prompt: str | None
    tokens: int
    truncated: Sequence[int]
    averaged: Sequence[int]
    seconds: float

    def quality(self, near: float = 0.99) -> Quality:
        """Examine the vectors: what a person would look at before storing them.

        Args:
            near: the least cosine of two vectors that are near-duplicates.
        """
        return examine(self.vectors, self.errors, near)._replace(
            truncated=len(self.truncated),
            averaged=len(self.averaged),
            tokens=self.tokens,
            tokens_per_s=self.tokens / self.seconds if self.seconds else 0.0,
        )
