"""Each way through the engine against transformers: BERT, a decoder in chunks or whole, the encoder of T5."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")
pytest.importorskip("torch", reason="the reference needs torch")

from tests.cosine import lowest_cosine
from tests.llama.compare import alone, packed
from tests.llama.reference import plain
from tests.vectors import embed, ids_of

FP32 = 0.99999
TEXTS = ("a", "the cat", "some words in a row " * 3, "qrst", "mean of the thing " * 3)
LONG = ("short", "word after word " * 60, "x" * 511, "y" * 512, "z" * 3000, "many different things " * 180)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_bert_is_pooled_as_its_file_says(pooling, bert_file, tiny_bert, open_backend):
    """BERT goes through llama_decode, without a memory, and gives transformers' vectors for any pooling."""
    backend = open_backend(bert_file(pooling))
    inputs = ids_of(backend, TEXTS)
    assert backend.info.pooling == pooling
    assert lowest_cosine(packed(backend, inputs), plain(tiny_bert, inputs, pooling)) >= FP32


def test_the_configured_pooling_wins(bert_file, tiny_bert, open_backend):
    """The pooling of the configuration replaces the file's."""
    backend = open_backend(bert_file("mean"), pooling="cls")
    inputs = ids_of(backend, TEXTS)
    assert lowest_cosine(packed(backend, inputs), plain(tiny_bert, inputs, "cls")) >= FP32


def test_a_decoder_takes_long_inputs_in_chunks(qwen3_file, tiny_qwen3, open_backend):
    """Inputs longer than one call, and around its edge, have the vectors of one uncut forward pass."""
    backend = open_backend(qwen3_file("last"))
    inputs = ids_of(backend, LONG)
    assert max(map(len, inputs)) > 6 * backend.info.max_batch_tokens
    assert lowest_cosine(alone(backend, inputs), plain(tiny_qwen3, inputs, "last")) >= FP32


def test_a_decoder_in_batches(qwen3_file, tiny_qwen3, open_backend):
    """Inputs that share a batch, with last tokens computed apart from the others, keep their vectors."""
    backend = open_backend(qwen3_file("last"))
    inputs = ids_of(backend, [text[:n] for n in (1, 5, 40, 90, 200) for text in (*TEXTS, *LONG)])
    assert lowest_cosine(packed(backend, inputs), plain(tiny_qwen3, inputs, "last")) >= FP32


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_all_chunks_of_a_decoder_count(pooling, qwen3_file, tiny_qwen3, open_backend):
    """The mean counts every token of a long input, not those of the last chunk; the first token is the first."""
    backend = open_backend(qwen3_file(pooling))
    inputs = ids_of(backend, LONG)
    assert lowest_cosine(alone(backend, inputs), plain(tiny_qwen3, inputs, pooling)) >= FP32


def test_the_encoder_of_t5(t5_file, tiny_t5, open_backend):
    """A model with an encoder and no decoder goes through llama_encode and gives transformers' vectors."""
    backend = open_backend(t5_file)
    inputs = ids_of(backend, TEXTS)
    assert backend.info.suffix == (1,)
    assert lowest_cosine(packed(backend, inputs), plain(tiny_t5, inputs, "mean")) >= FP32


def test_vectors_are_left_as_they_are_when_told_so(bert_file, open_backend):
    """Without normalisation a vector has the length that pooling gives it."""
    raw, unit = open_backend(bert_file("mean"), normalize=False), open_backend(bert_file("mean"))
    inputs = ids_of(raw, TEXTS)
    assert not raw.info.normalized
    assert unit.info.normalized
    assert (np.abs(np.linalg.norm(embed(raw, inputs), axis=1) - 1) > 0.1).all()
    np.testing.assert_allclose(np.linalg.norm(embed(unit, inputs), axis=1), 1, atol=1e-6)
