"""Quantised weights: whatever shares a call with an input, and a batch with a call, its vector stays the same."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")
pytest.importorskip("torch", reason="the models are random ones of transformers")

from embeddings_gateway.backends.selftest import SelfTest
from tests.cosine import lowest_cosine
from tests.llama.compare import alone, packed
from tests.llama.conftest import WORDS, state
from tests.vectors import embed

EQUAL = 0.9999999
"""Pooling by the engine may add up in another order; what it adds up is the same."""
LENGTHS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 40, 55, 56, 57, 63, 64, 65, 100, 130, 300)


@pytest.fixture
def quantised(make_gguf, tiny_bert, tiny_qwen3, tmp_path, open_backend):
    """Return a function that loads a tiny model with weights of eight bits."""

    def load(family, pooling):
        path = tmp_path / f"{family}-{pooling}.gguf"
        if family == "bert":
            config = tiny_bert.config
            make_gguf.write_bert(path, state(tiny_bert), config, WORDS, dtype="q8_0", pooling=pooling)
        else:
            config = tiny_qwen3.config
            make_gguf.write_qwen3(
                path, state(tiny_qwen3), config, dtype="q8_0", pooling=pooling, adds_end=True
            )
        return open_backend(path)

    return load


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_the_batch_changes_nothing(family, pooling, quantised):
    """Inputs of all lengths have the same vectors alone, in full batches, and in shuffled ones."""
    backend = quantised(family, pooling)
    source = np.random.default_rng(0)
    lengths = [n for n in LENGTHS if n <= backend.info.max_tokens] * 3
    inputs = [source.integers(0, 26, n, dtype=np.int32) for n in lengths]
    apart = alone(backend, inputs)
    for seed in range(3):
        order = random.Random(seed).sample(range(len(inputs)), len(inputs))
        assert lowest_cosine(apart, packed(backend, inputs, order)) >= EQUAL


def test_the_self_test_passes(quantised):
    """Its probes differ in length as inputs do, and are held to what is promised for few bits."""
    backend = quantised("qwen3", "last")
    assert SelfTest(backend).run() == ""


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_a_mean_over_any_number_of_tokens_is_possible(family, bert_file, qwen3_file, open_backend):
    """A context is opened for limits that are no multiples of anything."""
    file = bert_file("mean") if family == "bert" else qwen3_file("mean")
    backend = open_backend(file, max_tokens=61, max_batch_tokens=101)
    batch = [np.full(61, 7, np.int32), np.full(40, 8, np.int32)]
    assert np.isfinite(embed(backend, batch)).all()


def test_a_model_of_few_positions_is_not_filled_up(make_gguf, transformers, tmp_path, open_backend):
    """Where fewer positions exist than a call is filled up with, calls are as long as their inputs."""
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=5,
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    path = make_gguf.write_bert(tmp_path / "model.gguf", state(model), config, WORDS, pooling="mean")
    assert np.isfinite(embed(open_backend(path), [np.array([2, 7, 3], np.int32)])).all()
