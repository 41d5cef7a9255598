"""A backend without a model: deterministic numbers from the token ids, for tests of the machinery.

It implements the whole protocol, and serves only where it is configured by name. Its outputs mean nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import (
    PART_CONTEXT,
    Batch,
    Column,
    LoadError,
    ModelInfo,
    Output,
    Part,
    TokenIds,
    TokenizedPart,
    TokenSpan,
    Vectors,
    refuse_pairs,
)
from embeddings_gateway.backends.checksum import fingerprint
from embeddings_gateway.backends.model_options import offered_dimensions, resolve_prompts
from embeddings_gateway.backends.spec import FakeSpec

BEGIN, END = 256, 257
"""Special tokens; every other id is a byte of UTF-8."""
VOCABULARY = 258


class FakeBackend:
    """Tokens are the UTF-8 bytes between ``BEGIN`` and ``END``; a checksum of them seeds every output.

    It takes pairs where ``score`` is among its outputs, as ``BEGIN a END b END``.
    """

    def __init__(self, spec: FakeSpec) -> None:
        if spec.max_tokens is not None and spec.max_tokens < 3:
            raise LoadError("max_tokens has to leave room beside two special tokens: set 3 or more")
        prompts, default_prompt = resolve_prompts(spec)
        facts = {"runtime": "fake", "width": spec.width, "prompts": prompts, "default_prompt": default_prompt}
        if spec.outputs != ("dense",):
            facts |= {"outputs": spec.outputs, "labels": spec.labels}
        self._spec = spec
        self.files: Sequence[Path] = ()
        self.info = ModelInfo(
            dimensions=spec.width,
            supported_dimensions=offered_dimensions(spec, spec.width),
            max_tokens=spec.max_tokens or 512,
            vocabulary_size=VOCABULARY,
            prefix=(BEGIN,),
            suffix=(END,),
            prompts=prompts,
            default_prompt=default_prompt,
            pooling="none",
            normalized=True,
            dtype="fp32",
            device="cpu",
            runtime="fake",
            fingerprint=fingerprint(facts),
            cost=spec.cost,
            max_batch_tokens=spec.max_batch_tokens or 512,
            max_batch_inputs=64,
            created=0,
            outputs=spec.outputs,
            takes_pairs="score" in spec.outputs,
            token_span=TokenSpan(words=1, signs=1, chars=1),
            divides_texts=True,
            labels=spec.labels if "score" in spec.outputs else 0,
            token_dimensions=spec.width if "multi_vector" in spec.outputs else 0,
        )

    def tokenize(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> Batch:
        """Turn each text, or pair, into its bytes between special tokens."""
        firsts = [np.array([BEGIN, *text.encode(), END], np.int32) for text in texts]
        if text_pairs is None:
            return Batch.of(firsts)
        if not self.info.takes_pairs:
            refuse_pairs(text_pairs)
        seconds = [np.array([*text.encode(), END], np.int32) for text in text_pairs]
        halves = [half for pair in zip(firsts, seconds, strict=True) for half in pair]
        segments = np.repeat(np.arange(len(halves), dtype=np.int32) % 2, [len(half) for half in halves])
        pairs = Batch.of([np.concatenate(pair) for pair in zip(firsts, seconds, strict=True)])
        return Batch(pairs.ids, pairs.lengths, segments)

    def tokenize_part(self, text: str, part: Part) -> TokenizedPart:
        """Turn a part of a text into its bytes: every character is certain."""
        end = len(text) if part.closes else len(text) - PART_CONTEXT
        ids = self.tokenize([text[part.begin : end]]).ids[1:-1]
        return TokenizedPart(ids, part.begin, end)

    def run(self, batch: Batch, outputs: Sequence[Output]) -> dict[Output, Column]:
        """Compute each output with :func:`fake_column`."""
        return {output: fake_column(output, batch, self._spec) for output in outputs}

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""


def fake_vector(ids: TokenIds, width: int) -> Vectors:
    """Return the unit vector, float32 ``[width]``, that the fake backend gives these ids."""
    draw = np.random.default_rng(zlib.crc32(ids.astype("<i4").tobytes())).standard_normal(width)
    unit: Vectors = (draw / np.linalg.norm(draw)).astype(np.float32)
    return unit


def fake_column(output: Output, batch: Batch, spec: FakeSpec) -> Column:
    """Return the output that the fake backend gives these inputs: a function of each input's ids alone.

    dense is :func:`fake_vector`; multi_vector has a unit vector for each token, sparse a weight for each
    distinct id but the special ones, score a number in (0, 1) for each label.
    """
    inputs = batch.split()
    if output == "dense":
        return Column(np.stack([fake_vector(ids, spec.width) for ids in inputs]))
    sums = np.array([zlib.crc32(ids.astype("<i4").tobytes()) for ids in inputs], np.uint64)
    if output == "score":
        return Column(_fractions(sums[:, None], np.arange(spec.labels)))
    sequence_ids = np.repeat(np.arange(len(inputs)), batch.lengths)
    if output == "multi_vector":
        table = np.random.default_rng(0).standard_normal((VOCABULARY, spec.width))
        table /= np.linalg.norm(table, axis=1, keepdims=True)
        rows = (batch.ids + sums[sequence_ids].astype(np.int64)) % VOCABULARY
        return Column(table[rows].astype(np.float32), batch.offsets())
    plain = batch.ids < BEGIN
    keys = np.unique(sequence_ids[plain] * VOCABULARY + batch.ids[plain])
    sequence_ids, ids = np.divmod(keys, VOCABULARY)
    offsets = np.searchsorted(sequence_ids, np.arange(len(inputs) + 1))
    return Column(_fractions(sums[sequence_ids], ids)[:, None], offsets, ids.astype(np.int32))


def _fractions(sums: NDArray[np.uint64], numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return numbers in (0, 1), exact in float32, from checksums and a number beside each."""
    mixed = (sums + numbers.astype(np.uint64) + 1) * 0x9E3779B97F4A7C15
    return (((mixed >> 44).astype(np.float64) + 0.5) / 2**20).astype(np.float32)
