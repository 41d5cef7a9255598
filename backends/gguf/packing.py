"""PURE: how large a context of llama.cpp is, and how a batch is packed into calls to it. No engine.

Two kinds of model differ in what a long input costs:

- **chunked**: causal, with a memory (a KV cache), and the vector is the last token's. A long input goes
  through in chunks of one call, and only a few last tokens are output. The memory has room for the longest
  input: for Qwen3-Embedding-0.6B, 28 layers x 8 heads x 128 x K and V x 2 bytes = 112 KiB a token, 0.9 GB at
  the default limit.
- **whole**: all others. Every token sees every other, or counts for the mean, so the longest input must fit
  one call. The engine also keeps a row of the vocabulary's width for each token of a call, wanted or not:
  1 MB per token where the vocabulary has 250,000.

That is why ``max_tokens`` has a default below what some models could take. Setting it raises the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Batch, LoadError
from embeddings_gateway.backends.gguf.model import GgufFacts
from embeddings_gateway.backends.spec import GgufSpec

MAX_TOKENS_DEFAULT = 8192
CALL_TOKENS_CPU = 512  # saturates a processor already; more only adds latency
CALL_TOKENS_GPU = 2048
SEQUENCES_MAX = 64
# With fewer queries than a tile (GGML_FA_TILE_Q) ggml's flash attention on a processor sums in half
# precision, where a sum stops growing after 2048 equal terms. So the last call of a chunked batch has a tile
# of tokens, not one per input (measured on 3000 tokens: cosine 1 instead of 0.99985), and a batch of less
# than a tile does without flash attention (q8_0, alone and in a batch: 0.9991 instead of 0.9986).
TILE_TOKENS = 64
OUTPUT_BYTES_DEFAULT = 2 * 2**30
FLOAT_BYTES = 4


class ContextTraits(msgspec.Struct, frozen=True):
    """What only a context can tell of a model: whether it remembers tokens, and whether it is causal."""

    has_memory: bool
    causal: bool


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of one context, in tokens.

    Attributes:
        max_tokens: the longest input.
        max_batch_tokens: the largest batch that the backend asks for.
        capacity: the largest batch that the context takes; an input of ``max_tokens`` fits.
        call_tokens: the most tokens in one call of the engine.
        call_outputs: the most tokens in one call that are output.
    """

    max_tokens: int
    max_batch_tokens: int
    capacity: int
    call_tokens: int
    call_outputs: int


def choose_sizes(
    facts: GgufFacts, traits: ContextTraits, pooling: str, spec: GgufSpec, *, on_gpu: bool, memory_bytes: int
) -> Sizes:
    """Choose the sizes for a model; ``max_tokens`` and ``max_batch_tokens`` of the spec are kept or refused.

    ``memory_bytes`` is what the machine has: half of it may go to the output buffer, where asked for.
    """
    if facts.max_tokens_trained < 1:
        raise LoadError("the file states no context length; convert the model again")
    if spec.max_tokens is not None and spec.max_tokens > facts.max_tokens_trained:
        raise LoadError(
            f"max_tokens is {spec.max_tokens}, "
            f"but the model takes {facts.max_tokens_trained} tokens: lower it"
        )
    call_tokens = CALL_TOKENS_GPU if on_gpu else CALL_TOKENS_CPU
    if facts.route == "decode" and traits.has_memory and traits.causal and pooling == "last":
        return _chunked(facts, spec, call_tokens)
    return _whole(facts, traits, spec, call_tokens, memory_bytes)


def short_sizes(sizes: Sizes) -> Sizes:
    """Return the sizes of a context for batches of less than a tile."""
    return msgspec.structs.replace(
        sizes, capacity=TILE_TOKENS, call_tokens=TILE_TOKENS, call_outputs=TILE_TOKENS
    )


def _chunked(facts: GgufFacts, spec: GgufSpec, call_tokens: int) -> Sizes:
    max_tokens = spec.max_tokens or min(facts.max_tokens_trained, MAX_TOKENS_DEFAULT)
    max_batch_tokens = spec.max_batch_tokens or call_tokens
    return Sizes(
        max_tokens=max_tokens,
        max_batch_tokens=max_batch_tokens,
        capacity=max(max_tokens, max_batch_tokens, call_tokens),
        call_tokens=call_tokens,
        call_outputs=2 * TILE_TOKENS,
    )


def _whole(
    facts: GgufFacts, traits: ContextTraits, spec: GgufSpec, call_tokens: int, memory_bytes: int
) -> Sizes:
    # A model with a memory computes the logits of a token as well.
    vocabularies = 2 if traits.has_memory else 1
    row = FLOAT_BYTES * (vocabularies * facts.vocabulary_size + facts.dimensions)
    affordable = max(OUTPUT_BYTES_DEFAULT // row, 1)
    max_tokens = spec.max_tokens or min(facts.max_tokens_trained, MAX_TOKENS_DEFAULT, affordable)
    max_batch_tokens = spec.max_batch_tokens or min(call_tokens, affordable)
    # The engine aborts where a call has room for fewer tokens than sequences.
    capacity = max(max_tokens, max_batch_tokens, SEQUENCES_MAX)
    if capacity * row > max(memory_bytes // 2, OUTPUT_BYTES_DEFAULT):
        raise LoadError(
            f"a call of {capacity} tokens needs {capacity * row / 2**30:.1f} GiB for its outputs alone "
            f"(a vocabulary of {facts.vocabulary_size}): lower max_tokens and max_batch_tokens"
        )
    return Sizes(
        max_tokens=max_tokens,
        max_batch_tokens=max_batch_tokens,
        capacity=capacity,
        call_tokens=capacity,
        call_outputs=capacity,
    )


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Tokens of several inputs end to end, as llama.cpp reads them: int32 arrays of shape ``[tokens]``.

    Attributes:
        ids: the token ids.
        position_ids: the position of each token in its own input, from 0.
        sequence_ids: the index of each token's input in the batch.
    """

    ids: NDArray[np.int32]
    position_ids: NDArray[np.int32]
    sequence_ids: NDArray[np.int32]

    @classmethod
    def of(cls, batch: Batch) -> PackedTokens:
        """Pack whole inputs."""
        starts = batch.offsets()[:-1].astype(np.int32)
        return cls(
            ids=batch.ids,
            position_ids=np.arange(batch.tokens, dtype=np.int32) - np.repeat(starts, batch.lengths),
            sequence_ids=np.repeat(np.arange(len(batch), dtype=np.int32), batch.lengths),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def split_tails(self, tokens: int) -> tuple[PackedTokens, PackedTokens]:
        """Split whole inputs into all but their last tokens, and the last tokens: equally many of each input.

        The tails have at least ``tokens`` in all, where there are as many, but less than twice as many; or
        one of each input, if that is more.
        """
        lengths = np.bincount(self.sequence_ids)
        tail = 1
        while np.minimum(lengths, tail).sum() < min(tokens, len(self)):
            tail *= 2
        in_tail = self.position_ids >= lengths[self.sequence_ids] - tail
        return self._take(~in_tail), self._take(in_tail)

    def chunks(self, size: int) -> Iterator[PackedTokens]:
        """Yield the tokens in order, at most ``size`` at a time, evenly; an input may go on in the next."""
        count = -(-len(self) // size)
        for k in range(count):
            yield self._take(slice(k * len(self) // count, (k + 1) * len(self) // count))

    def _take(self, rows: NDArray[np.bool_] | slice) -> PackedTokens:
        return PackedTokens(self.ids[rows], self.position_ids[rows], self.sequence_ids[rows])
