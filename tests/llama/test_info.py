"""What a loaded backend states, and what its fingerprint depends on."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")


def test_the_facts_of_a_model(bert_file, open_backend):
    """Every field of the info is what the file and the configuration say."""
    info = open_backend(bert_file("cls"), max_tokens=40, max_batch_tokens=100).info
    assert (info.dimensions, info.supported_dimensions) == (64, (64,))
    assert (info.max_tokens, info.vocabulary_size) == (40, 31)
    assert (info.prompts, info.default_prompt) == ({}, None)
    assert (info.pooling, info.normalized) == ("cls", True)
    assert (info.dtype, info.device, info.runtime) == ("f32", "cpu", "llama.cpp")
    assert (info.cost, info.max_batch_tokens, info.max_batch_inputs) == ("packed", 100, 63)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
def test_the_dtype_is_the_file_s(dtype, make_gguf, tiny_bert, tmp_path, open_backend):
    """The dtype is named as users write it."""
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz")
    weights = {name: tensor.numpy() for name, tensor in tiny_bert.state_dict().items()}
    path = make_gguf.write_bert(
        tmp_path / "model.gguf", weights, tiny_bert.config, words, dtype=dtype, pooling="cls"
    )
    assert open_backend(path).info.dtype == dtype


def test_the_fingerprint_names_the_embedding_space(bert_file, qwen3_file, open_backend):
    """Weights, pooling, normalisation and an appended token change the fingerprint; limits do not."""
    options = [{}, {"pooling": "mean"}, {"normalize": False}]
    spaces = [open_backend(bert_file("cls"), **option).info.fingerprint for option in options]
    spaces += [open_backend(qwen3_file(adds_end=adds_end)).info.fingerprint for adds_end in (True, None)]
    assert len(set(spaces)) == len(spaces)
    assert open_backend(bert_file("cls"), max_tokens=9, max_batch_tokens=64).info.fingerprint == spaces[0]
