"""The old import name of this package, kept for one release: import ``embeddings_gateway`` instead."""

import warnings

from embeddings_gateway import AsyncEmbedder, Embedder, Embeddings, Quality

__all__ = ["AsyncEmbedder", "Embedder", "Embeddings", "Quality"]

warnings.warn(
    "import embeddings_gateway instead of gateway: the old name goes with the next release",
    DeprecationWarning,
    stacklevel=2,
)
