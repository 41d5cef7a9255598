"""The contexts of one model: one for batches of any size, and on a processor a second for short batches."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_gateway.backends.base import TokenIds, Vectors
from embeddings_gateway.backends.gguf.context import Context
from embeddings_gateway.backends.gguf.guard import check
from embeddings_gateway.backends.gguf.model import Model
from embeddings_gateway.backends.gguf.sizes import TILE_TOKENS, Sizes, short


class Engine:
    """Vectors of batches, each made in the context that suits its size. Used by one thread."""

    def __init__(self, model: Model, sizes: Sizes, pooling: str, threads: int) -> None:
        """Make the contexts.

        Raises:
            LoadError: they do not fit into memory, or llama.cpp refuses them.
        """
        self._sizes = sizes
        self._n_vocab = model.facts.n_vocab
        self._any = Context(model, sizes, pooling, threads, flash=True)
        self._short = None if model.on_gpu else Context(model, short(sizes), pooling, threads, flash=False)

    def __repr__(self) -> str:
        return f"<Engine {self._any!r}>"

    def embed(self, batch: Sequence[TokenIds]) -> Vectors:
        """Return the pooled vectors of ``batch``, not normalised; row ``i`` belongs to ``batch[i]``.

        Raises:
            EmbedError: the batch breaks a limit, or llama.cpp fails. The engine can be used again.
        """
        check(batch, self._sizes, self._n_vocab)
        is_short = sum(map(len, batch)) < TILE_TOKENS
        return (self._short if self._short and is_short else self._any).embed(batch)

    def close(self) -> None:
        """Give the contexts' memory back. A second call does nothing."""
        self._any.close()
        if self._short:
            self._short.close()
