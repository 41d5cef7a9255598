"""An OpenAI-compatible embeddings gateway: HTTP in, micro-batches out to worker processes, vectors back.

:class:`Embedder` and :class:`AsyncEmbedder` are the same without HTTP.
"""

from gateway.library.async_embedder import AsyncEmbedder
from gateway.library.embedder import Embedder
from gateway.library.embeddings import Embeddings
from gateway.library.quality import Quality

__all__ = ["AsyncEmbedder", "Embedder", "Embeddings", "Quality"]
