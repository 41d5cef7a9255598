"""Text to token ids, from any thread, and the facts about it that the gateway needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from embeddings_gateway.backends.base import EmbedError, LoadError, TokenIds
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.text.vocabulary import EndTokens, end_tokens, open_vocabulary

# Any word does: only what stands around its tokens is looked at. Several, as a vocabulary may lack some.
PROBES = ("a", "hello", "1", "the")


class HfTokenizer:
    """A vocabulary that is never changed after construction, so that threads may share it.

    Attributes:
        prefix, suffix: the special token ids that stand before and after every text.
        size: ids are in ``range(size)``.
    """

    def __init__(self, vocabulary: Tokenizer, ends: EndTokens) -> None:
        self._vocabulary = vocabulary
        before, after = _around(vocabulary)
        self._first = _absent(ends.first, before[:1])
        self._last = _absent(ends.last, after[-1:])
        self.prefix = self._first + before
        self.suffix = after + self._last
        self.size = max(vocabulary.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the ids of each text, special tokens included, never cut. Any thread may call this.

        Raises:
            EmbedError: a text is not valid Unicode (it has an unpaired surrogate).
        """
        try:
            encodings = self._vocabulary.encode_batch_fast(list(texts))
        except Exception as error:
            # Without the cause: the library may quote the text.
            raise EmbedError(f"the tokenizer failed: {type(error).__name__}") from None
        first, last = list(self._first), list(self._last)
        return [np.array([*first, *encoding.ids, *last], dtype=np.int32) for encoding in encodings]


def open_tokenizer(layout: Layout, kept: Path | None = None) -> HfTokenizer:
    """Return the tokenizer of a model directory.

    Args:
        layout: as read from the directory.
        kept: where its vocabulary was kept when it was converted, if it was.

    Raises:
        LoadError: there is no vocabulary, or it cannot be read.
    """
    opened = open_vocabulary(layout.folder, layout.lower_case, kept)
    return HfTokenizer(opened, end_tokens(layout.folder, opened))


def _around(vocabulary: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the ids put before and after a text, by looking at one with and without them."""
    for probe in PROBES:
        bare = vocabulary.encode(probe, add_special_tokens=False).ids
        whole = vocabulary.encode(probe).ids
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return tuple(whole[:start]), tuple(whole[start + len(bare) :])
    raise LoadError("the tokenizer makes no tokens of plain words: is it the right one for this model?")


def _absent(wanted: int | None, present: tuple[int, ...]) -> tuple[int, ...]:
    return () if wanted is None or present == (wanted,) else (wanted,)
