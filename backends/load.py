"""From a spec to a loaded backend: one match, and the only imports of heavy optional libraries."""

from __future__ import annotations

from embeddings_gateway.backends.base import Backend, LoadError
from embeddings_gateway.backends.spec import FakeSpec, FaultSpec, GgufSpec, HfSpec, Spec


def load(spec: Spec) -> Backend:
    """Load the model that ``spec`` describes. The calling thread is the one that must call ``run``."""
    try:
        match spec:
            case HfSpec():
                from embeddings_gateway.backends.hf.backend import HfBackend

                return HfBackend(spec)
            case GgufSpec():
                from embeddings_gateway.backends.gguf.backend import GgufBackend

                return GgufBackend(spec)
            case FaultSpec():
                from embeddings_gateway.backends.fault import FaultBackend

                return FaultBackend(spec)
            case FakeSpec():
                from embeddings_gateway.backends.fake import FakeBackend

                return FakeBackend(spec)
    except ImportError as error:
        extra = spec.kind
        raise LoadError(
            f"backend {extra!r} needs a package that cannot be imported ({error.name}): "
            f"install the extra {extra!r}, as the README says"
        ) from error
