"""Whether a loaded model keeps what is promised of its vectors: asked of it before it serves, and in doubt.

Probe texts are embedded alone and together. What a model said of itself when it was converted is compared
where conversions are opened, in ``hf.opening``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from embeddings_gateway.backends.base import (
    Backend,
    BackendError,
    EmbedError,
    ModelInfo,
    OutOfMemory,
    TokenIds,
    Vectors,
)

PROBES = (
    "A probe.",
    "The quick brown fox jumps over the lazy dog.",
    "Ein etwas längerer Satz, der mit 漢字 und 🙂 andere Schriften enthält: nicht alle sind gleich lang.",
    "0123456789",
)
TOKENS_MAX = 2 * sum(len(probe.encode()) + 8 for probe in PROBES)
"""No more are computed by a self-test: a token is a byte at least, beside a few special ones."""

COMPANY = {"fp32": 0.99999, "f32": 0.99999, "bf16": 0.9999, "f16": 0.9999, "int8": 0.999, "q8_0": 0.999}
"""The least cosine between a text alone and the same one in company, by dtype."""
COMPANY_TORCH_BF16 = 0.999  # it keeps eight bits between layers, and on a GPU kernels differ by batch
COMPANY_FEWER_BITS = 0.99
NORM_TOLERANCE = 0.01


def company(info: ModelInfo) -> float:
    """Return how near a text's vector alone and in company have to be, as a cosine."""
    if (info.runtime, info.dtype) == ("torch", "bf16"):
        return COMPANY_TORCH_BF16
    return COMPANY.get(info.dtype, COMPANY_FEWER_BITS)


class SelfTest:
    """The probes of one backend. Called by the thread that computes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._info = backend.info

    def run(self) -> str:
        """Return what is wrong with the model, for an operator; empty if nothing is.

        Raises:
            OutOfMemory: which may be so for a while only.
        """
        info = self._info
        special = len(info.prefix) + len(info.suffix)
        if info.max_tokens <= special:
            return f"max_tokens is {info.max_tokens}, but {special} special tokens stand around every text"
        try:
            batch = self._batch()
            alone = [self._backend.embed([ids]) for ids in batch]
            together = self._backend.embed(batch)
        except OutOfMemory:
            raise
        except BackendError as error:
            return f"the model fails on probe texts: {error}"
        return self._malformed([*alone, together], [1] * len(batch) + [len(batch)]) or self._disagreement(
            np.concatenate(alone), together
        )

    def tokens_per_s(self) -> float:
        """Return how many tokens a second a small batch is computed with: less than a full one would be."""
        batch = self._batch()
        began = time.perf_counter()
        self._backend.embed(batch)
        return sum(map(len, batch)) / max(time.perf_counter() - began, 1e-6)

    def _batch(self) -> list[TokenIds]:
        """Return as many probes as fit into one batch, no longer than the model takes."""
        info, batch = self._info, list[TokenIds]()
        for ids in self._backend.tokenize(PROBES):
            if not len(ids) or ids.max() >= info.vocabulary_size:  # some vocabularies know few characters
                continue
            longer = [*batch, _fitted(ids, info)]
            cost = max(map(len, longer)) * len(longer)
            if batch and (cost > info.batch_tokens or len(longer) > info.batch_inputs):
                break
            batch = longer
        if not batch:
            raise EmbedError("its vocabulary has no token for any of them")
        return batch

    def _malformed(self, answers: Sequence[Vectors], inputs: Sequence[int]) -> str:
        for vectors, count in zip(answers, inputs, strict=True):
            if vectors.shape != (count, self._info.dimensions):
                return f"the model gives probe texts {vectors.shape}, not {(count, self._info.dimensions)}"
            norms = np.linalg.norm(vectors, axis=1)
            if not np.isfinite(norms).all() or not (norms > 0).all():
                return "the model gives probe texts vectors that are not finite, or zero"
            if self._info.normalized and (np.abs(norms - 1) > NORM_TOLERANCE).any():
                return "the model gives probe texts vectors that have not the unit length that it states"
        return ""

    def _disagreement(self, alone: Vectors, together: Vectors) -> str:
        norms = np.linalg.norm(alone, axis=1) * np.linalg.norm(together, axis=1)
        lowest = float(((alone * together).sum(axis=1) / norms).min())
        needed = company(self._info)
        if lowest >= needed:
            return ""
        return f"probe texts alone and in company have a cosine of {lowest:.6f}; promised is {needed}"


def _fitted(ids: TokenIds, info: ModelInfo) -> TokenIds:
    """Return ids no longer than the model takes, with the special tokens at their end."""
    if len(ids) <= info.max_tokens:
        return ids
    suffix = np.array(info.suffix, dtype=np.int32)
    return np.concatenate([ids[: info.max_tokens - len(suffix)], suffix])
