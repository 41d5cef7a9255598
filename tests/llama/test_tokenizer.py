"""Text into ids: what is added, what is never added, and which texts are refused."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")

from embeddings_gateway.backends.base import EmbedError
from embeddings_gateway.backends.gguf.tokenizer import RUN_CHARACTERS_MAX
from embeddings_gateway.serving.prepare.tally import least_tokens
from tests.texts import varied_texts
from tests.vectors import embed, ids_of

END = 257  # <|endoftext|> in the tiny Qwen3's vocabulary


def test_special_tokens_stand_around_every_text(bert_file, qwen3_file, t5_file, open_backend):
    """The stated prefix and suffix are around every text, and are all that an empty one has."""
    for file, prefix, suffix in (
        (bert_file("cls"), (2,), (3,)),
        (qwen3_file(adds_end=True), (), (END,)),
        (t5_file, (), (1,)),
    ):
        backend = open_backend(file)
        assert (backend.info.prefix, backend.info.suffix) == (prefix, suffix)
        text, empty = (ids.tolist() for ids in ids_of(backend, ["the cat", ""]))
        assert empty == [*prefix, *suffix]
        assert text[: len(prefix)] == list(prefix)
        assert text[-len(suffix) :] == list(suffix)


def test_a_forgotten_end_token_is_appended(qwen3_file, open_backend):
    """An old Qwen3-Embedding file, silent about an end token, gives the ids of one that asks for it."""
    silent, clear = open_backend(qwen3_file(adds_end=None)), open_backend(qwen3_file(adds_end=True))
    texts = ["", "the cat", "x" * 700]
    for ours, other in zip(ids_of(silent, texts), ids_of(clear, texts), strict=True):
        np.testing.assert_array_equal(ours, other)
    assert silent.info.suffix == clear.info.suffix == (END,)


@pytest.mark.parametrize(("pooling", "adds_end"), [("last", False), ("mean", None)])
def test_no_end_token_is_appended_otherwise(pooling, adds_end, qwen3_file, open_backend):
    """A file that says no, or that is not pooled at its last token, is left as it is; a text may be empty."""
    backend = open_backend(qwen3_file(pooling, adds_end=adds_end))
    assert backend.info.suffix == ()
    assert [ids.tolist() for ids in ids_of(backend, ["", "a"])] == [[], [ord("a")]]


def test_a_text_cannot_spell_a_special_token(bert_file, qwen3_file, open_backend):
    """The name of a special token in a text is ordinary characters."""
    ids = ids_of(open_backend(bert_file("cls")), ["[MASK] [SEP]"])[0].tolist()
    assert ids[0] == 2
    assert ids[-1] == 3
    assert not {2, 3, 4} & set(ids[1:-1])
    ids = ids_of(open_backend(qwen3_file()), ["a<|endoftext|>b"])[0].tolist()
    assert ids.index(END) == len(ids) - 1 == len("a<|endoftext|>b")


def test_least_tokens(bert_file, qwen3_file, t5_file, open_backend):
    """No text has fewer tokens than is known of it before it is tokenized, which is much for an ordinary one."""
    for file, at_least in ((bert_file("cls"), 99), (qwen3_file(), 99), (t5_file, 0)):
        backend = open_backend(file)
        special = len(backend.info.prefix) + len(backend.info.suffix)
        texts = [*varied_texts(300), "[SEP]" * 99, "!" * 999, "x" * 9999, " " * 99, "a b " * 50]
        for text, ids in zip(texts, ids_of(backend, texts), strict=True):
            assert least_tokens(text, backend.info.token_span) <= len(ids) - special
        assert least_tokens("a b " * 50, backend.info.token_span) >= at_least


def test_a_nul_does_not_end_a_text(qwen3_file, open_backend):
    """What follows a NUL character is tokenized too."""
    ids = ids_of(open_backend(qwen3_file()), ["a\x00b"])[0]
    assert len(ids) == len("a\x00b") + 1


def test_half_a_surrogate_pair_is_refused(bert_file, open_backend):
    """A text that is not Unicode is an error that names its place and not its words."""
    with pytest.raises(EmbedError, match="not valid Unicode") as refusal:
        ids_of(open_backend(bert_file("cls")), ["fine", "secret \ud800"])
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize("run", ["a", " ", "\n", "\u4e2d", "!"])
def test_a_run_that_overflows_the_stack_is_refused(run, qwen3_file, open_backend):
    """Where words are found by std::regex a long run is refused; where by a loop it is tokenized."""
    words = "the cat " * 10_000 + ("end" if run.isspace() else "")
    text = words + run * RUN_CHARACTERS_MAX
    guarded = open_backend(qwen3_file(pre="gpt-4o"))
    assert len(ids_of(guarded, [text])[0]) > RUN_CHARACTERS_MAX
    with pytest.raises(EmbedError, match="without a space, or as many spaces"):
        ids_of(guarded, [text + run])
    assert len(ids_of(open_backend(qwen3_file(pre="qwen2")), [text + run])[0]) > RUN_CHARACTERS_MAX


@pytest.mark.parametrize("family", ["bert", "qwen3", "t5"])
def test_any_unicode_is_tokenized(family, request, open_backend):
    """Two thousand texts of random characters from all planes have ids of the vocabulary."""
    file = request.getfixturevalue(f"{family}_file")
    backend = open_backend(file if family == "t5" else file("last"))
    source = random.Random(5)
    for _ in range(2000):
        top = source.choice([0x80, 0x250, 0x3000, 0x10000, 0x110000])
        points = (source.randrange(top) for _ in range(source.randrange(40)))
        text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
        ids = ids_of(backend, [text])[0]
        assert ids.dtype == np.int32
        assert ((ids >= 0) & (ids < backend.info.vocabulary_size)).all()


def test_other_threads_tokenize_while_one_computes(qwen3_file, open_backend):
    """Ids made by four threads during a run of batches are those made alone."""
    backend = open_backend(qwen3_file())
    texts = [f"text {i} of the thread " * (i % 7) for i in range(200)]
    expected = [ids.tolist() for ids in ids_of(backend, texts)]
    results = []
    threads = [
        threading.Thread(target=lambda: results.append([ids.tolist() for ids in ids_of(backend, texts)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for _ in range(5):
        embed(backend, ids_of(backend, ["the cat " * 30]))
    for thread in threads:
        thread.join()
    assert results == [expected] * 4
