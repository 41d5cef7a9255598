"""Segments (token types) of a text, and the pooling that follows from the direction of attention."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

import torch
from tokenizers import Tokenizer, processors
from transformers import (
    AutoModel,
    BertGenerationConfig,
    BertGenerationEncoder,
    GPT2Config,
    GPT2Model,
    Qwen2Config,
    Qwen2Model,
    XLNetConfig,
    XLNetModel,
)

from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.hf.files.tokenizer_settings import Segments
from embeddings_gateway.backends.hf.network.network import token_types
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine, unit
from tests.hf.refusal import change, refused
from tests.hf.torch_settings import TORCH
from tests.make_hf import SIZES, VOCABULARY
from tests.vectors import embed, ids_of

TEXTS = ["a river", "old stone bridges while people talk", "weather"]
XLNET = XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=64, pad_token_id=0)


def framed(directory, frame):
    """Give the vocabulary another frame."""
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(path)
    change(directory / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def saved(directory, model):
    """Put another model into the directory, with weights that tell texts apart."""
    torch.manual_seed(4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    model.save_pretrained(directory)


def means(directory, inputs, segments):
    """Return the mean of each input's tokens by transformers alone, given each token's segment."""
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    rows = []
    for ids, types in zip(inputs, segments, strict=True):
        with torch.inference_mode():
            given = torch.tensor(ids[None], dtype=torch.long), torch.tensor([types])
            rows.append(model(input_ids=given[0], token_type_ids=given[1]).last_hidden_state[0].mean(0))
    return unit(torch.stack(rows).numpy())


@pytest.mark.parametrize("side", [1, -1])
def test_token_types(side):
    """Special tokens have segments of their own, padding on either side none."""
    mask = torch.tensor([[1, 1, 1, 1, 1][::side], [1, 1, 1, 0, 0][::side]])
    types = token_types(mask, Segments((4,), 1, (2, 3))).tolist()
    assert types == [[4, 1, 1, 2, 3], [4, 2, 3, 0, 0] if side == 1 else [0, 0, 4, 2, 3]]


def test_text_of_another_segment(own):
    """A tokenizer that puts the text into segment 1 has that passed to the model, alone and in a batch."""
    directory = own("bert")
    framed(directory, "[CLS]:0 $A:1 [SEP]:1")
    backend = HfBackend(HfSpec(path=str(directory), **TORCH))
    inputs = ids_of(backend, TEXTS)
    expected = means(directory, inputs, [[0] + [1] * (len(ids) - 1) for ids in inputs])
    plain = means(directory, inputs, [[0] * len(ids) for ids in inputs])
    assert lowest_cosine(embed(backend, inputs), expected) >= 0.99999 > lowest_cosine(expected, plain)


def test_xlnet(own):
    """XLNet's last token has segment 2, and its tokens are averaged: each of them sees all others."""
    directory = own("bert")
    saved(directory, XLNetModel(XLNET))
    framed(directory, "$A:0 [SEP]:0 [CLS]:2")
    backend = HfBackend(HfSpec(path=str(directory), **TORCH))
    inputs = ids_of(backend, TEXTS)
    expected = means(directory, inputs, [[0] * (len(ids) - 1) + [2] for ids in inputs])
    assert backend.info.pooling == "mean"
    assert lowest_cosine(embed(backend, inputs), expected) >= 0.99999


def test_encoder_named_like_a_decoder(own):
    """A model that transformers also uses to generate is pooled by its mean where its tokens see each other."""
    directory = own("bert")
    saved(
        directory, BertGenerationEncoder(BertGenerationConfig(vocab_size=VOCABULARY, pad_token_id=0, **SIZES))
    )
    assert HfBackend(HfSpec(path=str(directory), **TORCH)).info.pooling == "mean"


@pytest.mark.parametrize(("is_causal", "pooling"), [(True, "last"), (False, "mean")])
def test_direction_of_attention(own, is_causal, pooling):
    """A decoder is pooled by its last token, unless its configuration makes its tokens see each other."""
    directory = own("qwen3")
    saved(directory, Qwen2Model(Qwen2Config(vocab_size=VOCABULARY, num_key_value_heads=2, **SIZES)))
    change(directory / "config.json", is_causal=is_causal)
    assert HfBackend(HfSpec(path=str(directory), **TORCH)).info.pooling == pooling


def test_direction_that_the_class_lacks(own):
    """A configuration that wants attention in both directions of a class without it is refused."""
    directory = own("qwen3")
    saved(
        directory,
        GPT2Model(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    )
    change(directory / "config.json", use_bidirectional_attention=True)
    assert "both directions" in refused(directory)
