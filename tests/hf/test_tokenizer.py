"""Text to ids: nothing padded, nothing cut, special tokens where the files want them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from embeddings_gateway.backends.base import EmbedError, LoadError
from embeddings_gateway.backends.hf.tokenizer import HfTokenizer, end_tokens, open_vocabulary
from tests.make_hf import FAMILIES, write_json
from tests.texts import varied_texts


def tokenizer_of(directory):
    """Open a model directory's tokenizer."""
    vocabulary = open_vocabulary(directory, lower_case=False)
    return HfTokenizer(vocabulary, end_tokens(directory, {}, vocabulary))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_framed_and_whole(tiny, family):
    """Every text stands whole between prefix and suffix, though the file asks for cutting and padding."""
    tokenizer = tokenizer_of(tiny(family))
    plain = Tokenizer.from_file(str(tiny(family) / "tokenizer.json"))
    plain.no_padding()
    plain.no_truncation()
    texts = varied_texts(200)
    for text, ids in zip(texts, tokenizer.tokenize(texts), strict=True):
        bare = plain.encode(text, add_special_tokens=False).ids
        assert ids.tolist() == [*tokenizer.prefix, *bare, *tokenizer.suffix]
        assert ids.dtype == np.int32


@pytest.mark.parametrize("text", ["a\x00b", "\x00", " ", "", "\u200b", "🫠" * 50, "\ufeff", "x" * 100_000])
@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_odd_texts(tiny, family, text):
    """Odd texts become ids, if only the special ones."""
    (ids,) = tokenizer_of(tiny(family)).tokenize([text])
    assert len(ids) >= 1


def test_text_that_looks_special(tiny):
    """Text that reads like a special token is that token, as in sentence-transformers."""
    (ids,) = tokenizer_of(tiny("bert")).tokenize(["[SEP]"])
    theirs = AutoTokenizer.from_pretrained(tiny("bert"))("[SEP]")["input_ids"]
    assert ids.tolist() == theirs == [2, 3, 3]


def test_unpaired_surrogate(tiny):
    """A text that is not Unicode is an error without a word of it."""
    with pytest.raises(EmbedError) as caught:
        tokenizer_of(tiny("bert")).tokenize(["fine", "secret\ud800"])
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_threads_share_it(tiny):
    """Several threads tokenize at once and get what one would."""
    tokenizer = tokenizer_of(tiny("bert"))
    texts = varied_texts(100)
    expected = [ids.tolist() for ids in tokenizer.tokenize(texts)]
    with ThreadPoolExecutor(4) as threads:
        for answer in threads.map(lambda _: tokenizer.tokenize(texts), range(16)):
            assert [ids.tolist() for ids in answer] == expected


@pytest.mark.parametrize(
    ("settings", "prefix", "suffix"),
    [
        ({}, (), (0,)),
        # A file that already ends texts is not made to end them twice.
        ({"add_eos_token": True, "eos_token": "<|endoftext|>"}, (), (0,)),
        ({"add_eos_token": True, "eos_token": {"content": "a"}}, (), (0, "a")),
        ({"add_bos_token": True, "bos_token": "<|endoftext|>"}, (0,), (0,)),
        ({"add_eos_token": False, "add_bos_token": False, "eos_token": "<|endoftext|>"}, (), (0,)),
        ({"add_eos_token": True, "eos_token": None}, (), (0,)),
    ],
)
def test_end_tokens_of_decoders(own, settings, prefix, suffix):
    """End tokens that only tokenizer_config.json asks for are added, once; those of the file always stay."""
    directory = own("qwen3")
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **settings})
    tokenizer = tokenizer_of(directory)
    letter = Tokenizer.from_file(str(directory / "tokenizer.json")).token_to_id("a")
    expected = tuple(letter if token == "a" else token for token in suffix)
    assert (tokenizer.prefix, tokenizer.suffix) == (prefix, expected)
    (ids,) = tokenizer.tokenize(["river"])
    assert tuple(ids[: len(prefix)]) == prefix
    assert tuple(ids[-len(expected) :]) == expected


def test_end_token_outside_the_vocabulary(own):
    """A wanted end token that does not exist is refused by name."""
    directory = own("qwen3")
    write_json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True, "eos_token": "</none>"},
    )
    with pytest.raises(LoadError, match="</none>"):
        tokenizer_of(directory)


def test_a_tokenizer_on_which_the_library_panics(own):
    """A file that the library ends with a panic, which is no Exception, is refused with the file's name."""
    folder = own("bert")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": ""}
    write_json(folder / "tokenizer.json", content)
    with pytest.raises(LoadError, match=r"tokenizer\.json cannot be read"):
        open_vocabulary(folder, lower_case=False)


def test_vocabulary_without_tokenizer_json(own):
    """A directory with only vocab.txt gives the ids that its tokenizer.json gave."""
    directory = own("bert")
    texts = varied_texts(100)
    expected = [ids.tolist() for ids in tokenizer_of(directory).tokenize(texts)]
    vocabulary = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab()
    (directory / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    (directory / "tokenizer.json").unlink()
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    assert [ids.tolist() for ids in tokenizer_of(directory).tokenize(texts)] == expected
