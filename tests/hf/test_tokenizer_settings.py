"""Settings of a tokenizer that stand beside tokenizer.json: those that transformers heeds are heeded here."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.hf.files.layout import read_layout
from embeddings_gateway.backends.hf.files.tokenizer_settings import TokenizerSettings
from embeddings_gateway.backends.hf.tokenizer import open_tokenizer
from embeddings_gateway.backends.hf.tokenizer_check import TEXTS, check_tokenizer
from embeddings_gateway.backends.spec import HfSpec
from tests.hf.refusal import change
from tests.hf.torch_settings import TORCH
from tests.make_hf import write_json

EXTRA = {"content": "<extra>", "lstrip": False, "rstrip": True, "normalized": False, "single_word": False}
ADDED = {"590": {**EXTRA, "special": False}}
BERT = {"tokenizer_class": "BertTokenizer"}
TRIED = [*TEXTS, "one<extra> two", "[SEP] [MASK]"]


def check(directory):
    """Return the settings of a directory, and the ids of texts with them and without."""
    layout = read_layout(directory)
    settings = check_tokenizer(layout)
    plain, heeding = (open_tokenizer(layout, each) for each in (TokenizerSettings(), settings))
    return settings, *([ids.tolist() for ids in each.tokenize(TRIED)] for each in (heeding, plain))


def theirs(directory):
    """Return the ids of texts that transformers gives."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(TRIED)]


def edit_vocabulary(directory, part, **values):
    """Change settings of a part of tokenizer.json."""
    content = json.loads((directory / "tokenizer.json").read_text())
    content[part] = {**content[part], **values}
    write_json(directory / "tokenizer.json", content)


@pytest.mark.parametrize(
    ("family", "part", "in_file", "beside"),
    [
        ("bert", "normalizer", {"lowercase": False}, {**BERT, "do_lower_case": True}),
        ("bert", "normalizer", {"lowercase": True}, {**BERT, "do_lower_case": False}),
        ("bert", "normalizer", {}, {**BERT, "strip_accents": False}),
        ("bert", "normalizer", {}, {**BERT, "tokenize_chinese_chars": False}),
        ("bert", "normalizer", {}, {**BERT, "split_special_tokens": True}),
        (
            "xlm-roberta",
            "pre_tokenizer",
            {},
            {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True},
        ),
        (
            "bert",
            "normalizer",
            {},
            {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": ADDED},
        ),
    ],
)
def test_settings_beside_the_vocabulary(own, family, part, in_file, beside):
    """A setting that only tokenizer_config.json has gives the ids that transformers gives, and no note."""
    directory = own(family)
    edit_vocabulary(directory, part, **in_file)
    vocabulary = Tokenizer.from_file(str(directory / "tokenizer.json"))
    if "added_tokens_decoder" in beside:  # a new token gets the next id
        beside = {**beside, "added_tokens_decoder": {str(vocabulary.get_vocab_size()): ADDED["590"]}}
    write_json(directory / "tokenizer_config.json", beside)
    settings, ours, plain = check(directory)
    assert ours == theirs(directory) != plain
    assert settings.notes == ()


def test_nothing_beside_the_vocabulary(tiny):
    """A tokenizer.json that says all is taken as it is."""
    settings, ours, plain = check(tiny("bert"))
    assert settings == TokenizerSettings()
    assert ours == plain


def test_class_that_does_not_fit(own):
    """Where transformers builds another tokenizer by its class, tokenizer.json counts and a note says so."""
    directory = own("xlm-roberta")
    tokenizer = Tokenizer(models.Unigram([("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], 3))
    pieces = [(letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer.model = models.Unigram(
        [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces], 3
    )
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer"})
    settings, ours, plain = check(directory)
    assert ours == plain != theirs(directory)
    assert "tokenizer.json counts" in settings.notes[0]
    assert settings.notes[0] in HfBackend(HfSpec(path=str(directory), **TORCH)).info.notes


def test_tokenizer_that_transformers_cannot_build(own):
    """Where transformers has no tokenizer to compare with, a note says why."""
    directory = own("bert")
    change(directory / "tokenizer_config.json", added_tokens_decoder={"x": 1})
    settings, ours, plain = check(directory)
    assert ours == plain
    assert "cannot read it" in settings.notes[0]


@pytest.mark.parametrize(
    ("config", "heeded"),
    [
        ({"tokenizer_class": "LlamaTokenizerFast"}, True),
        ({"tokenizer_class": "GemmaTokenizer"}, True),
        ({"tokenizer_class": "Qwen2Tokenizer"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ({"tokenizer_class": "Qwen2Tokenizer", "auto_map": {"AutoTokenizer": ["own.T", None]}}, True),
        ({}, False),
    ],
)
def test_who_heeds_end_tokens(own, config, heeded):
    """An end token is added for classes of Llama's kind, and for tokenizers with code of their own."""
    directory = own("qwen3")
    letter = Tokenizer.from_file(str(directory / "tokenizer.json")).token_to_id("a")
    write_json(directory / "tokenizer_config.json", {**config, "add_eos_token": True, "eos_token": "a"})
    tokenizer = open_tokenizer(read_layout(directory), TokenizerSettings())
    assert tokenizer.suffix == ((0, letter) if heeded else (0,))


def test_settings_are_part_of_the_space(own):
    """A setting that is heeded changes the ids and the fingerprint."""
    directory = own("bert")
    write_json(directory / "tokenizer_config.json", BERT)
    lower = HfBackend(HfSpec(path=str(directory), **TORCH))
    write_json(directory / "tokenizer_config.json", {**BERT, "do_lower_case": False})
    cased = HfBackend(HfSpec(path=str(directory), **TORCH))
    assert not np.array_equal(lower.tokenize(["Old BRIDGES"]).ids, cased.tokenize(["Old BRIDGES"]).ids)
    assert lower.info.fingerprint != cased.info.fingerprint
