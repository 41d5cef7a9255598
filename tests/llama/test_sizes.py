"""The sizes of a context: arithmetic, without an engine."""

from __future__ import annotations

import msgspec
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.gguf.model import GgufFacts
from embeddings_gateway.backends.gguf.packing import ContextTraits, choose_sizes, limit_notes
from embeddings_gateway.backends.spec import GgufSpec

GIB = 2**30
BERT, DECODER = ContextTraits(has_memory=False, causal=False), ContextTraits(has_memory=True, causal=True)
FACTS = GgufFacts(
    architecture="any",
    dimensions=1024,
    max_tokens_trained=32768,
    vocabulary_size=150_000,
    pooling=None,
    dtype="f16",
    quantised=False,
    route="decode",
    adds_end=None,
)


def sizes(traits=DECODER, *, memory=64 * GIB, on_gpu=False, facts=FACTS, **options):
    """Return the sizes for a large decoder, unless told otherwise."""
    spec = GgufSpec(path="/model.gguf", **options)
    return choose_sizes(facts, traits, spec, on_gpu=on_gpu, memory_bytes=memory)


def test_a_decoder_s_long_context_is_bounded():
    """A decoder trained for 32768 tokens gets room for 8192, in calls of one pack, unless more is asked."""
    chosen = sizes()
    assert (chosen.max_tokens, chosen.capacity, chosen.call_tokens) == (8192, 8192, 512)
    assert chosen.call_outputs < chosen.call_tokens
    assert sizes(max_tokens=32768).capacity == 32768


@pytest.mark.parametrize(
    ("traits", "route"),
    [(BERT, "decode"), (ContextTraits(has_memory=True, causal=False), "decode"), (DECODER, "encode")],
)
def test_only_a_causal_decoder_is_chunked(traits, route):
    """For any other model the longest input fits one call, of a multiple of the engine's sequences."""
    chosen = sizes(traits, facts=msgspec.structs.replace(FACTS, route=route), max_tokens=2000)
    assert not chosen.in_chunks
    assert chosen.capacity == 2000
    assert chosen.call_tokens == chosen.call_outputs == 2048


def test_only_inputs_below_a_tile_share_a_call_of_a_quantised_model_or_a_decoder():
    """On a processor; on a GPU, and in encoders of 16 bits, inputs share calls as long as a batch."""
    quantised = msgspec.structs.replace(FACTS, quantised=True)
    assert sizes(BERT, facts=quantised).shared_tokens == sizes().shared_tokens == 56
    assert sizes(facts=quantised, on_gpu=True).shared_tokens == 2048
    assert sizes(BERT).shared_tokens == sizes(BERT).capacity


def test_a_large_vocabulary_lowers_the_default_limit():
    """The default keeps the engine's output rows within 2 GiB; a configured limit is taken as it is."""
    chosen = sizes(BERT)
    assert 3000 < chosen.max_tokens < 4000
    assert sizes(BERT, max_tokens=8192).max_tokens == 8192


def test_a_default_limit_below_the_model_s_says_why():
    """A note names both limits and what a longer input costs; a configured limit needs none."""
    spec = GgufSpec(path="/model.gguf")
    (chunked,) = limit_notes(FACTS, spec, sizes())
    (whole,) = limit_notes(FACTS, spec, sizes(BERT))
    assert "8192, though the model takes 32768" in chunked
    assert "150000 numbers for each token" in whole
    limited = GgufSpec(path="/model.gguf", max_tokens=100)
    assert limit_notes(FACTS, limited, sizes(max_tokens=100)) == ()


def test_outputs_larger_than_half_the_memory_are_refused():
    """A limit that the machine has no memory for is refused, with the size it would need."""
    with pytest.raises(LoadError, match=r"18\.4 GiB for its outputs alone"):
        sizes(BERT, max_tokens=32768, memory=16 * GIB)


def test_a_small_model_has_room_for_all_its_sequences():
    """The engine aborts where a call has room for fewer tokens than sequences; there always is."""
    assert sizes(BERT, max_tokens=3, max_batch_tokens=5).call_tokens == 64


def test_packs_are_larger_on_a_gpu():
    """A GPU gets larger packs, in calls as large, and a configured size wins."""
    assert sizes(on_gpu=True).max_batch_tokens == sizes(on_gpu=True).call_tokens == 2048
    assert sizes(on_gpu=True, max_batch_tokens=700).max_batch_tokens == 700


def test_a_batch_larger_than_the_longest_input_has_room():
    """The context holds a batch as well as the longest input."""
    assert sizes(max_tokens=600, max_batch_tokens=5000).capacity == 5000
    assert sizes(BERT, max_tokens=600, max_batch_tokens=5000).capacity == 5000


def test_a_limit_above_the_model_s_is_refused():
    """So is a model that states no limit at all."""
    with pytest.raises(LoadError, match="the model takes 32768 tokens"):
        sizes(max_tokens=32769)
    with pytest.raises(LoadError, match="no context length"):
        sizes(facts=msgspec.structs.replace(FACTS, max_tokens_trained=0))
