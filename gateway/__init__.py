"""An OpenAI-compatible embeddings gateway: HTTP in, micro-batches to worker processes, vectors back.

:class:`Embedder` and :class:`AsyncEmbedder` are the same without HTTP. The names load at first use, because worker
processes import this package for its ``backends`` only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embeddings_gateway.library.embedder import AsyncEmbedder, Embedder
    from embeddings_gateway.library.embeddings import Embeddings, Quality

__all__ = ["AsyncEmbedder", "Embedder", "Embeddings", "Quality"]

_MODULES = {
    "AsyncEmbedder": "embedder",
    "Embedder": "embedder",
    "Embeddings": "embeddings",
    "Quality": "embeddings",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"embeddings_gateway.library.{_MODULES[name]}"), name)
