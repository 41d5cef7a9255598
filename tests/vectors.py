"""What a backend gives for inputs, as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_gateway.backends.base import Backend, Batch, TokenIds, Vectors


def ids_of(backend: Backend, texts: Sequence[str]) -> list[TokenIds]:
    """Return the ids of each text."""
    return backend.tokenize(texts).split()


def embed(backend: Backend, inputs: Sequence[TokenIds]) -> Vectors:
    """Return the dense vectors of a batch of these inputs."""
    return backend.run(Batch.of(inputs), ("dense",))["dense"].values
