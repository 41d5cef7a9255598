"""A backend without a model: deterministic numbers from the token ids, for tests of the machinery.

Real in every other respect, and configured only by its own name. Its vectors mean nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from embeddings_gateway.backends import prompts
from embeddings_gateway.backends.base import LoadError, ModelInfo, TokenIds, Vectors
from embeddings_gateway.backends.fingerprint import fingerprint
from embeddings_gateway.backends.spec import FakeSpec

BEGIN, END = 256, 257
"""Special tokens; every other id is a byte of UTF-8."""


class FakeBackend:
    """Tokens are the UTF-8 bytes between ``BEGIN`` and ``END``; a checksum of them seeds the vector."""

    def __init__(self, spec: FakeSpec) -> None:
        offered = tuple(sorted({*(spec.dimensions or ()), spec.width}))
        if offered[-1] > spec.width:
            raise LoadError(f"dimensions offers {offered[-1]}, the model has {spec.width}: offer less")
        if spec.max_tokens is not None and spec.max_tokens < 3:
            raise LoadError("max_tokens has to leave room beside two special tokens: set 3 or more")
        words, default = prompts.choose(spec)
        self.info = ModelInfo(
            dimensions=spec.width,
            supported_dimensions=offered,
            max_tokens=spec.max_tokens or 512,
            vocabulary_size=258,
            prefix=(BEGIN,),
            suffix=(END,),
            prompts=dict(words),
            default_prompt=default,
            pooling="none",
            normalized=True,
            dtype="fp32",
            device="cpu",
            runtime="fake",
            fingerprint=fingerprint(
                {"runtime": "fake", "width": spec.width, "prompts": words, "default_prompt": default}
            ),
            cost=spec.cost,
            batch_tokens=spec.max_batch_tokens or 512,
            batch_inputs=64,
            created=0,
        )

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """See :class:`embeddings_gateway.backends.base.Backend`."""
        return [np.array([BEGIN, *text.encode(), END], dtype=np.int32) for text in texts]

    def embed(self, batch: Sequence[TokenIds]) -> Vectors:
        """See :class:`embeddings_gateway.backends.base.Backend`."""
        return np.stack([fake_vector(ids, self.info.dimensions) for ids in batch])

    def close(self) -> None:
        """See :class:`embeddings_gateway.backends.base.Backend`. There is nothing to give back."""


def fake_vector(ids: TokenIds, width: int) -> Vectors:
    """Return the unit vector, float32 ``[width]``, that the fake backend gives these ids."""
    draw = np.random.default_rng(zlib.crc32(ids.astype("<i4").tobytes())).standard_normal(width)
    unit: Vectors = (draw / np.linalg.norm(draw)).astype(np.float32)
    return unit
