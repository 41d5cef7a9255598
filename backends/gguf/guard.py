"""What the engine would answer with ``abort()``, or with memory beyond an array, refused before it is called.

The gateway and the worker promise these things already. A broken promise costs one batch here, and the
process there.
"""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_gateway.backends.base import EmbedError, TokenIds
from embeddings_gateway.backends.gguf.sizes import SEQUENCES_MAX, Sizes


def check(batch: Sequence[TokenIds], sizes: Sizes, n_vocab: int) -> None:
    """Refuse a batch that does not fit the context.

    Raises:
        EmbedError: no input or too many, an empty or too long one, an id outside the vocabulary, or more
            tokens in all than the context has room for.
    """
    if not 1 <= len(batch) <= SEQUENCES_MAX:
        raise EmbedError(f"a batch of {len(batch)} inputs; from 1 to {SEQUENCES_MAX} are possible")
    for i, ids in enumerate(batch):
        if not 1 <= len(ids) <= sizes.max_tokens:
            raise EmbedError(f"input {i} has {len(ids)} tokens; from 1 to {sizes.max_tokens} are possible")
        if ids.min() < 0 or ids.max() >= n_vocab:
            raise EmbedError(f"input {i} has a token id outside the vocabulary of {n_vocab}")
    total = sum(map(len, batch))
    if total > sizes.capacity:
        raise EmbedError(f"a batch of {total} tokens; the context has room for {sizes.capacity}")
