"""How much of a text one token of a GGUF file's vocabulary can stand for, so that hopeless texts are known at once.

Known for WordPiece, and for byte-pair vocabularies in which every visible character of ASCII is a token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from embeddings_gateway.backends.base import TokenIds, TokenSpan
from embeddings_gateway.backends.gguf.bindings import llama

SEEN = tuple(map(chr, range(ord("!"), ord("~") + 1)))
BLANKS = " \u2581\u0120"  # what vocabularies write for a blank
OVER_A_BLANK = re.compile(rf"[^{BLANKS}][{BLANKS}]+[^{BLANKS}]")


def token_span(vocabulary: Any, tokenize: Callable[[str], TokenIds]) -> TokenSpan:
    """Return how much of a text one token can stand for.

    Args:
        vocabulary: the engine's pointer to it.
        tokenize: returns the ids of a text without special tokens.
    """
    kind = llama.llama_vocab_type(vocabulary)
    if kind == llama.LLAMA_VOCAB_TYPE_WPM:
        return TokenSpan(words=1, signs=1)  # an unknown word is one token, however long it is
    if kind not in (llama.LLAMA_VOCAB_TYPE_BPE, llama.LLAMA_VOCAB_TYPE_SPM):
        return TokenSpan()
    alone = (len(tokenize(char)) - len(tokenize("")) for char in SEEN)
    if min(alone) < 1:  # the engine drops what has no token
        return TokenSpan()
    pieces = list(_pieces(vocabulary))
    words = 0 if any(map(OVER_A_BLANK.search, pieces)) else 1
    return TokenSpan(words=words, chars=max(len(piece.strip(BLANKS)) for piece in pieces))


def _pieces(vocabulary: Any) -> Iterator[str]:
    """Yield the text of each token, as the file writes it: a character stands for a byte, or for itself."""
    for token in range(llama.llama_vocab_n_tokens(vocabulary)):
        yield llama.llama_vocab_get_text(vocabulary, token).decode(errors="replace")
