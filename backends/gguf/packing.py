"""PURE: how large a context of llama.cpp is, and how a batch is packed into calls to it. No engine.

Two kinds of model differ in what a long input costs:

- **chunked**: causal, with a memory (a KV cache). A long input goes through in chunks, and we pool the tokens'
  vectors ourselves. The memory has room for the longest input: for Qwen3-Embedding-0.6B, 28 layers x 8 heads
  x 128 x K and V x 2 bytes = 112 KiB a token, 0.9 GB at the default limit. The engine multiplies every token
  that is output by the whole vocabulary. So for the last token's vector only a few last tokens are output,
  and for the mean, which needs all, a few at a time.
- **whole**: all others. Every token sees every other, so the longest input must fit one call, and the engine
  pools. It also keeps a row of the vocabulary's width for each token of a call, wanted or not: 1 MB per token
  where the vocabulary has 250,000.

That is why ``max_tokens`` has a default below what some models could take. Setting it raises the limit.

Weights of few bits make a model amplify the smallest difference: products with them round each token's
numbers to eight bits, so a last digit decides between two of 255 steps. On a processor three choices of the
engine depend on a call's tokens, and each alone moved vectors of short texts to a cosine of 0.99, or 0.985:

- Matrix products have one kernel for single tokens and others for 4 or 8 at a time. So every call is filled
  up to a multiple of 8 tokens.
- Flash attention has a kernel for tiles of 64 tokens and another for fewer. So an input's own length decides.
- Tiles, and attention without flash, add up in an order that depends on an input's place in the call; the
  kernel for fewer than 64 tokens passes over the others' tokens. So only inputs that fit one such call
  share it, and longer ones are computed by themselves. Then vectors are equal bit by bit.

Decoders amplify more than encoders: one in bfloat16 had a cosine of 0.9994. So all decoders are computed so.
Encoders with weights of 16 or 32 bits need only the first: their inputs share calls, which is faster.
"""

from __future__ import annotations

import itertools
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
SEQUENCES = 64
INPUTS_MAX = SEQUENCES - 1
FILLER = SEQUENCES - 1  # the sequence of tokens that only fill up a call
MULTIPLE = 8
# With fewer queries than a tile (GGML_FA_TILE_Q) ggml's flash attention on a processor sums in half
# precision, where a sum stops growing after 2048 equal terms. So the last call of a chunked batch has a tile
# of tokens, not one per input (measured on 3000 tokens: cosine 1 instead of 0.99985), and a batch of less
# than a tile does without flash attention, unless it is of a decoder or of quantised weights.
TILE_TOKENS = 64
PREFILL_MIN = 32  # so many tokens are cheaper in one call, all output, than in two
SHARED_TOKENS = TILE_TOKENS - MULTIPLE  # the most that stay below a tile when filled up
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
        shared_tokens: the most tokens that inputs may have together to share a call.
        in_chunks: whether an input may be spread over several calls.
        tail_tokens: where only last tokens' vectors are wanted, at least so many tokens are output after the others.
        multiple: the number of tokens in a call is a multiple of this.
    """

    max_tokens: int
    max_batch_tokens: int
    capacity: int
    call_tokens: int
    call_outputs: int
    shared_tokens: int
    in_chunks: bool
    tail_tokens: int = TILE_TOKENS
    multiple: int = MULTIPLE


def choose_sizes(
    facts: GgufFacts, traits: ContextTraits, spec: GgufSpec, *, on_gpu: bool, memory_bytes: int
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
    if facts.route == "decode" and traits.has_memory and traits.causal:
        sizes = _chunked(facts, spec, call_tokens)
    else:
        sizes = _whole(facts, traits, spec, call_tokens, memory_bytes)
    if facts.max_tokens_trained < MULTIPLE:  # such a model may have no positions for tokens that fill up
        sizes = msgspec.structs.replace(sizes, multiple=1)
    if on_gpu or not (facts.quantised or sizes.in_chunks):
        return sizes
    # The encoder of T5 adds a bias to its attention, which flash attention does not do.
    return msgspec.structs.replace(sizes, shared_tokens=0 if facts.route == "encode" else SHARED_TOKENS)


def limit_notes(facts: GgufFacts, spec: GgufSpec, sizes: Sizes) -> tuple[str, ...]:
    """Return why the default limit of an input is below what the model could take."""
    trained = facts.max_tokens_trained
    if spec.max_tokens is not None or sizes.max_tokens >= trained:
        return ()
    costs = (
        "the memory of a worker grows with it (a KV cache)"
        if sizes.in_chunks
        else f"llama.cpp keeps {facts.vocabulary_size} numbers for each token of the longest input"
    )
    return (
        f"max_tokens is {sizes.max_tokens}, though the model takes {trained}: {costs}; set it to have more",
    )


def short_sizes(sizes: Sizes) -> Sizes:
    """Return the sizes of a context for calls of less than a tile."""
    return msgspec.structs.replace(
        sizes,
        capacity=TILE_TOKENS,
        call_tokens=TILE_TOKENS,
        call_outputs=TILE_TOKENS,
        tail_tokens=MULTIPLE,
    )


def up_to_multiple(tokens: int, multiple: int) -> int:
    """Return the next multiple of ``multiple`` from ``tokens`` on."""
    return -(-tokens // multiple) * multiple


def share_calls(lengths: NDArray[np.int32], shared_tokens: int) -> list[list[int]]:
    """Return the inputs of each call, as indices: together at most ``shared_tokens``, or one by itself."""
    calls: list[list[int]] = []
    room = 0
    for i, length in enumerate(lengths.tolist()):
        if length > shared_tokens:
            calls.insert(0, [i])  # the call that still has room stays the last
        elif length > room:
            calls.append([i])
            room = shared_tokens - length
        else:
            calls[-1].append(i)
            room -= length
    return calls


def _chunked(facts: GgufFacts, spec: GgufSpec, call_tokens: int) -> Sizes:
    max_tokens = spec.max_tokens or min(facts.max_tokens_trained, MAX_TOKENS_DEFAULT)
    max_batch_tokens = spec.max_batch_tokens or call_tokens
    return Sizes(
        max_tokens=max_tokens,
        max_batch_tokens=max_batch_tokens,
        capacity=max(max_tokens, max_batch_tokens, call_tokens),
        call_tokens=call_tokens,
        call_outputs=2 * TILE_TOKENS,
        shared_tokens=max_batch_tokens,
        in_chunks=True,
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
    capacity = max(max_tokens, max_batch_tokens)
    # The engine aborts where a call has room for fewer tokens than sequences, or for a number of tokens that is
    # no multiple of the sequences.
    call_tokens = up_to_multiple(capacity, SEQUENCES)
    if capacity * row > max(memory_bytes // 2, OUTPUT_BYTES_DEFAULT):
        raise LoadError(
            f"a call of {capacity} tokens needs {capacity * row / 2**30:.1f} GiB for its outputs alone "
            f"(a vocabulary of {facts.vocabulary_size}): lower max_tokens and max_batch_tokens"
        )
    return Sizes(
        max_tokens=max_tokens,
        max_batch_tokens=max_batch_tokens,
        capacity=capacity,
        call_tokens=call_tokens,
        call_outputs=call_tokens,
        shared_tokens=capacity,
        in_chunks=False,
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
        """Yield the tokens in order, at most ``size`` at a time, evenly; an input may go on in the next.

        All but the last are multiples of ``MULTIPLE``, as ``size`` has to be: little has to be filled up.
        """
        count = 1 if len(self) <= size else -(-len(self) // (size - MULTIPLE))
        ends = [k * len(self) // count // MULTIPLE * MULTIPLE for k in range(count)] + [len(self)]
        for start, end in itertools.pairwise(ends):
            if end > start:
                yield self._take(slice(start, end))

    def filled_up(self, multiple: int, filled: int) -> PackedTokens:
        """Return these and as many tokens of the sequence ``FILLER`` as make a multiple of ``multiple``.

        ``filled``: how many tokens that sequence has already.
        """
        count = up_to_multiple(len(self), multiple) - len(self)
        more = np.arange(filled, filled + count, dtype=np.int32)
        return PackedTokens(
            np.concatenate((self.ids, np.zeros(count, np.int32))),
            np.concatenate((self.position_ids, more)),
            np.concatenate((self.sequence_ids, np.full(count, FILLER, np.int32))),
        )

    def _take(self, rows: NDArray[np.bool_] | slice) -> PackedTokens:
        return PackedTokens(self.ids[rows], self.position_ids[rows], self.sequence_ids[rows])


class Pooled:
    """Vectors of inputs whose tokens come a chunk at a time.

    Args:
        pooling: ``mean``, ``cls`` or ``last``.
        lengths: the tokens of each input.
    """

    def __init__(self, pooling: str, lengths: NDArray[np.int32], dimensions: int) -> None:
        self._pooling = pooling
        self._lengths = lengths
        self._sums = np.zeros((len(lengths), dimensions))

    def add(self, chunk: PackedTokens, rows: NDArray[np.float32]) -> None:
        """Take the vectors of a chunk's tokens, ``[tokens, dimensions]``; an input's tokens are in order."""
        inputs = chunk.sequence_ids
        if self._pooling == "mean":
            starts = np.flatnonzero(np.diff(inputs, prepend=-1))
            self._sums[inputs[starts]] += np.add.reduceat(rows.astype(np.float64), starts, axis=0)
            return
        wanted = 0 if self._pooling == "cls" else self._lengths[inputs] - 1
        taken = chunk.position_ids == wanted
        self._sums[inputs[taken]] = rows[taken]

    def vectors(self) -> NDArray[np.float32]:
        """Return the vectors, ``[inputs, dimensions]``, not normalised."""
        if self._pooling == "mean":
            return (self._sums / self._lengths[:, None]).astype(np.float32)
        return self._sums.astype(np.float32)
