"""How large a context is: pure arithmetic on what is known of the model, the machine and the configuration.

Two kinds of model differ in what a long input costs:

- **chunked**: causal, with a memory, and the vector is the last token's. A long input goes through in
  chunks of one pack, and only a few last tokens are output. Its memory (the KV cache) has room for the
  longest input: for Qwen3-Embedding-0.6B, 28 layers x 8 heads x 128 x K and V x 2 bytes = 112 KiB a token,
  0.9 GB at the default limit.
- **whole**: all others. Every token sees every other, or counts for the mean, so that the longest input
  must fit one call; and the engine keeps a row of the vocabulary's width for each token of a call, wanted
  or not: 1 MB per token where the vocabulary has 250,000.

That is why ``max_tokens`` has a default below what some models could take. Setting it raises the limit.
"""

from __future__ import annotations

import msgspec

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.gguf.facts import Facts
from embeddings_gateway.backends.spec import GgufSpec

MAX_TOKENS_DEFAULT = 8192
PACK_TOKENS_CPU = 512  # more than saturates a processor already, and only adds latency
PACK_TOKENS_GPU = 2048
SEQUENCES_MAX = 64
# With fewer queries than a tile (GGML_FA_TILE_Q) ggml's flash attention on a processor sums in half
# precision, where a sum stops growing after 2048 equal terms. So the last call of a chunked batch has a tile
# of tokens, not one per input (measured on 3000 tokens: cosine 1 instead of 0.99985), and a batch of less
# than a tile does without flash attention (q8_0, alone and in company: 0.9991 instead of 0.9986).
TILE_TOKENS = 64
OUTPUT_BYTES_DEFAULT = 2 * 2**30
FLOAT_BYTES = 4


class Traits(msgspec.Struct, frozen=True):
    """What only a context can say of a model: does it remember tokens, and does a token see later ones."""

    has_memory: bool
    causal: bool


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of one context, in tokens.

    Attributes:
        max_tokens: the longest input.
        batch_tokens: the largest batch that the backend asks for.
        capacity: the largest batch that the context takes; an input of ``max_tokens`` fits.
        call_tokens: the most tokens in one call of the engine.
        call_outputs: the most tokens in one call whose results are kept.
        chunked: whether an input may be spread over several calls.
    """

    max_tokens: int
    batch_tokens: int
    capacity: int
    call_tokens: int
    call_outputs: int
    chunked: bool


def fit(
    facts: Facts, traits: Traits, pooling: str, spec: GgufSpec, *, on_gpu: bool, memory_bytes: int
) -> Sizes:
    """Choose the sizes.

    Args:
        facts: of the file.
        traits: of the model.
        pooling: the pooling that is used.
        spec: its ``max_tokens`` and ``max_batch_tokens`` are taken as they are, or refused.
        on_gpu: larger packs pay there.
        memory_bytes: what the machine has; half of it may go to the output buffer, where asked for.

    Raises:
        LoadError: a limit is above the model's own, or its buffers are too large for the machine.
    """
    if facts.n_ctx_train < 1:
        raise LoadError("the file states no context length; convert the model again")
    if spec.max_tokens is not None and spec.max_tokens > facts.n_ctx_train:
        raise LoadError(
            f"max_tokens is {spec.max_tokens}, but the model takes {facts.n_ctx_train} tokens: lower it"
        )
    pack_tokens = PACK_TOKENS_GPU if on_gpu else PACK_TOKENS_CPU
    if facts.route == "decode" and traits.has_memory and traits.causal and pooling == "last":
        return _chunked(facts, spec, pack_tokens)
    return _whole(facts, traits, spec, pack_tokens, memory_bytes)


def short(sizes: Sizes) -> Sizes:
    """Return the sizes of a context for batches of less than a tile."""
    return msgspec.structs.replace(
        sizes, capacity=TILE_TOKENS, call_tokens=TILE_TOKENS, call_outputs=TILE_TOKENS, chunked=False
    )


def _chunked(facts: Facts, spec: GgufSpec, pack_tokens: int) -> Sizes:
    max_tokens = spec.max_tokens or min(facts.n_ctx_train, MAX_TOKENS_DEFAULT)
    batch_tokens = spec.max_batch_tokens or pack_tokens
    return Sizes(
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        capacity=max(max_tokens, batch_tokens, pack_tokens),
        call_tokens=pack_tokens,
        call_outputs=2 * TILE_TOKENS,
        chunked=True,
    )


def _whole(facts: Facts, traits: Traits, spec: GgufSpec, pack_tokens: int, memory_bytes: int) -> Sizes:
    row = _output_bytes(facts, traits)
    affordable = max(OUTPUT_BYTES_DEFAULT // row, 1)
    max_tokens = spec.max_tokens or min(facts.n_ctx_train, MAX_TOKENS_DEFAULT, affordable)
    batch_tokens = spec.max_batch_tokens or min(pack_tokens, affordable)
    # The engine aborts where a call has room for fewer tokens than sequences.
    capacity = max(max_tokens, batch_tokens, SEQUENCES_MAX)
    if capacity * row > max(memory_bytes // 2, OUTPUT_BYTES_DEFAULT):
        raise LoadError(
            f"a call of {capacity} tokens needs {capacity * row / 2**30:.1f} GiB for its outputs alone "
            f"(a vocabulary of {facts.n_vocab}): lower max_tokens and max_batch_tokens"
        )
    return Sizes(
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        capacity=capacity,
        call_tokens=capacity,
        call_outputs=capacity,
        chunked=False,
    )


def _output_bytes(facts: Facts, traits: Traits) -> int:
    """Return what one token of a call costs; a model with a memory computes its logits as well."""
    vocabularies = 2 if traits.has_memory else 1
    return FLOAT_BYTES * (vocabularies * facts.n_vocab + facts.width)
