"""The backend as its caller sees it: facts, fingerprint, checkpoints of other heads, failures, closing."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPTNeoConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from embeddings_gateway.backends.base import EmbedError, LoadError
from embeddings_gateway.backends.checksum import sha256
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine
from tests.hf.reference import reference
from tests.hf.torch_settings import TORCH
from tests.make_hf import SIZES, VOCABULARY, write_json
from tests.vectors import embed, ids_of

TEXTS = ["a river", "old stone bridges", "weather"]


def load(directory, **settings):
    """Load a directory."""
    return HfBackend(HfSpec(path=str(directory), **{**TORCH, **settings}))


def test_fingerprint_follows_the_vectors(own, tmp_path):
    """The fingerprint changes with all that moves a vector and with nothing else."""
    directory = own("bert")
    first = load(directory).info.fingerprint
    elsewhere = shutil.copytree(directory, tmp_path / "elsewhere")
    os.utime(elsewhere / "model.safetensors", (1, 1))
    config = json.loads((elsewhere / "config.json").read_text())
    write_json(elsewhere / "config.json", {**config, "transformers_version": "9", "_name_or_path": "x"})
    same = load(elsewhere, max_tokens=16, max_batch_tokens=64, dimensions=(8,)).info
    assert (same.fingerprint, same.created) == (first, 1)
    write_json(elsewhere / "config.json", {**config, "layer_norm_eps": 1e-6})
    others = [load(elsewhere), load(directory, pooling="cls"), load(directory, normalize=False)]
    others.append(load(directory, dtype="bf16"))
    write_json(directory / "config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    others.append(load(directory))
    assert len({first, *(other.info.fingerprint for other in others)}) == 6


def test_configured_limits(tiny):
    """The configuration's limits are the ones stated."""
    info = load(tiny("bert"), max_tokens=16, max_batch_tokens=64).info
    assert (info.max_tokens, info.max_batch_tokens) == (16, 64)
    assert info.max_batch_inputs >= 64


def test_pinned_sum(tiny):
    """The right sum is accepted, alone and in a table."""
    info = load(tiny("bert")).info
    digest = sha256(tiny("bert") / "model.safetensors")
    assert load(tiny("bert"), sha256=digest).info == info
    assert load(tiny("bert"), sha256={"model.safetensors": digest}).info == info


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo"])
def test_checkpoint_with_masks(own, kind):
    """Masks and other buffers that old checkpoints hold beside the weights change no vector."""
    directory = own("qwen3")
    torch.manual_seed(2)
    layers = {
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    }
    config = (
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        if kind == "gpt2"
        else GPTNeoConfig(vocab_size=VOCABULARY, hidden_size=32, max_position_embeddings=64, **layers)
    )
    AutoModel.from_config(config).save_pretrained(directory)
    plain = load(directory)
    inputs = ids_of(plain, TEXTS)
    expected = embed(plain, inputs)
    weights = load_file(directory / "model.safetensors")
    for layer in range(2):
        name = f"h.{layer}.attn" if kind == "gpt2" else f"h.{layer}.attn.attention"
        seen = torch.ones(64, 64).tril() - (torch.ones(64, 64).tril(-4) if layer and kind != "gpt2" else 0)
        weights |= {f"{name}.bias": seen[None, None], f"{name}.masked_bias": torch.tensor(-1e4)}
    weights["h.0.attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    assert lowest_cosine(embed(load(directory), inputs), expected) >= 0.99999


def test_padding_id_outside_the_vocabulary(own):
    """A padding id that the table of embeddings lacks is never looked up."""
    directory = own("qwen3")
    config = json.loads((directory / "config.json").read_text())
    write_json(directory / "config.json", {**config, "pad_token_id": VOCABULARY + 4})
    backend = load(directory)
    inputs = ids_of(backend, TEXTS)
    alone = np.concatenate([embed(backend, [ids]) for ids in inputs])
    assert lowest_cosine(embed(backend, inputs), alone) >= 0.99999


def test_padding_token_without_a_vector(own):
    """A padding token whose embedding is not a number spoils no input beside it."""
    directory = own("bert")
    weights = load_file(directory / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0] = float("nan")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    backend = load(directory)
    inputs = ids_of(backend, TEXTS)
    alone = np.concatenate([embed(backend, [ids]) for ids in inputs])
    assert lowest_cosine(embed(backend, inputs), alone) >= 0.99999


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_checkpoint_with_a_head(own, kind):
    """A checkpoint saved with a language head is loaded without it, every layer with its own weights."""
    directory = own("bert" if kind == "masked" else "qwen3")
    torch.manual_seed(2)
    heads = {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True, "pad_token_id": 0}
    whole = (
        BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, initializer_range=0.3, **SIZES))
        if kind == "masked"
        else Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, initializer_range=0.3, **heads, **SIZES))
    )
    whole.save_pretrained(directory)
    backend = load(directory)
    inputs = ids_of(backend, TEXTS)
    body = whole.base_model.eval()
    rows = []
    for ids in inputs:
        with torch.inference_mode():
            tokens = body(input_ids=torch.tensor(ids[None], dtype=torch.long)).last_hidden_state[0]
        rows.append(tokens[-1] if kind == "causal" else tokens.mean(0))
    assert lowest_cosine(embed(backend, inputs), torch.stack(rows).numpy()) >= 0.99999


def test_sharded_weights(own):
    """Weights in several files give the vectors that one file gave."""
    directory = own("bert")
    expected = reference(directory, ids_of(load(directory), TEXTS), "mean")
    from_one_file = AutoModel.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    from_one_file.save_pretrained(directory, max_shard_size="50KB")
    assert len(list(directory.glob("model-*.safetensors"))) > 1
    backend = load(directory)
    assert lowest_cosine(embed(backend, ids_of(backend, TEXTS)), expected) >= 0.99999


def test_quiet(tiny, capfd):
    """Loading writes nothing to stdout or stderr."""
    load(tiny("bert"))
    assert capfd.readouterr() == ("", "")


def test_failure_is_an_embed_error(tiny):
    """A failure of torch is an EmbedError without the input, and the backend goes on working."""
    backend = load(tiny("bert"))
    with pytest.raises(EmbedError) as caught:
        embed(backend, [np.array([123456], np.int32)])
    assert "123456" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert embed(backend, ids_of(backend, ["fine"])).shape == (1, 32)


def test_rows_are_plain_arrays(tiny):
    """Vectors are float32, contiguous, writable, and no torch object."""
    vectors = embed(load(tiny("bert"), dtype="bf16"), [np.array([2, 9, 3], np.int32)])
    assert type(vectors) is np.ndarray
    assert (vectors.dtype, vectors.flags.c_contiguous, vectors.flags.writeable) == (np.float32, True, True)


def test_fp16_needs_a_gpu(tiny):
    """A processor has no arithmetic in fp16: the configuration is refused, with what to use instead."""
    with pytest.raises(LoadError, match=r"fp16.*GPU.*bf16"):
        load(tiny("bert"), dtype="fp16")


def test_closed(tiny):
    """After close the model is gone."""
    backend = load(tiny("bert"))
    assert repr(backend) == "HfBackend(mean, 32 dimensions, fp32 on cpu)"
    backend.close()
    with pytest.raises(EmbedError, match="closed"):
        embed(backend, [np.array([2, 3], np.int32)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 0.99999), ("auto", 0.999), ("fp16", 0.9999)])
def test_gpu(tiny, dtype, tolerance):
    """On a GPU the vectors are those of the processor, within the dtype's tolerance."""
    gpu, cpu = load(tiny("bert"), device="cuda", dtype=dtype), load(tiny("bert"), device="cpu")
    inputs = ids_of(cpu, TEXTS)
    assert gpu.info.device == "cuda:0"
    assert lowest_cosine(embed(gpu, inputs), embed(cpu, inputs)) >= tolerance
