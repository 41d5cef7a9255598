"""Tiny random models of every family, against transformers itself."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine
from tests.hf.loading import load_transformer
from tests.hf.reference import POOLING, reference
from tests.hf.torch_settings import TORCH
from tests.make_hf import FAMILIES, POSITIONS
from tests.texts import varied_texts
from tests.vectors import embed, ids_of

DEFAULT_POOLING = {"qwen3": "last"}
SAME = 0.99999


def inputs_of(backend: HfBackend, count: int = 40):
    """Return token ids of varied texts that the tiny models can take."""
    limit = backend.info.max_tokens
    kept = [ids for ids in ids_of(backend, varied_texts(count * 3)) if len(ids) <= limit]
    return kept[:count]


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    """Name each family in turn."""
    return request.param


def test_family_matches_transformers(tiny, family):
    """A batch of inputs of all lengths has the vectors that transformers gives each input alone."""
    backend = HfBackend(HfSpec(path=str(tiny(family)), **TORCH))
    inputs = inputs_of(backend)
    pooling = DEFAULT_POOLING.get(family, "mean")
    assert backend.info.pooling == pooling
    assert lowest_cosine(embed(backend, inputs), reference(tiny(family), inputs, pooling)) >= SAME


def test_batch_invariance(tiny, family):
    """An input has the same vector alone, beside one other, and in a shuffled batch."""
    backend = HfBackend(HfSpec(path=str(tiny(family)), **TORCH))
    inputs = sorted(inputs_of(backend), key=len)
    alone = np.concatenate([embed(backend, [ids]) for ids in inputs])
    beside = np.concatenate([embed(backend, [ids, inputs[-1]])[:1] for ids in inputs])
    order = np.random.default_rng(0).permutation(len(inputs))
    shuffled = embed(backend, [inputs[i] for i in order])[np.argsort(order)]
    assert lowest_cosine(alone, beside) >= SAME
    assert lowest_cosine(alone, shuffled) >= SAME


def test_vectors_differ(tiny, family):
    """Different inputs have different vectors, so that the other tests could fail."""
    backend = HfBackend(HfSpec(path=str(tiny(family)), **TORCH))
    vectors = embed(backend, [np.unique(ids) for ids in inputs_of(backend) if len(ids) > 10])
    cosines = vectors @ vectors.T
    assert np.median(cosines) < 0.99


def test_longest_input(tiny, family):
    """An input of exactly the stated limit works, in every scheme of positions."""
    backend = HfBackend(HfSpec(path=str(tiny(family)), **TORCH))
    offset = 2 if family in {"xlm-roberta", "mpnet"} else 0
    assert backend.info.max_tokens == POSITIONS - offset
    ids = np.full(backend.info.max_tokens, backend.info.suffix[0], dtype=np.int32)
    assert np.isfinite(embed(backend, [ids, ids[:3]])).all()


def test_facts(tiny, family):
    """The stated facts are those of the files: width, vocabulary, special tokens, unit length."""
    backend = HfBackend(HfSpec(path=str(tiny(family)), **TORCH))
    info, kind = backend.info, FAMILIES[family]
    assert (info.dimensions, info.supported_dimensions) == (32, (32,))
    assert info.prefix == (() if kind.before is None else (kind.tokens.index(kind.before),))
    assert info.suffix == (kind.tokens.index(kind.after),)
    assert max(ids.max() for ids in inputs_of(backend)) < info.vocabulary_size <= 600
    # A wrong padding id does not show in a vector, but RoBERTa's positions could run out of their table.
    assert load_transformer(tiny(family)).facts.pad_id == kind.tokens.index(kind.pad)
    assert np.allclose(np.linalg.norm(embed(backend, inputs_of(backend)), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("pooling", sorted(POOLING))
def test_pooling_override(tiny, pooling):
    """Every pooling that can be configured matches its textbook formula."""
    backend = HfBackend(HfSpec(path=str(tiny("bert")), **TORCH, pooling=pooling))
    inputs = inputs_of(backend)
    assert lowest_cosine(embed(backend, inputs), reference(tiny("bert"), inputs, pooling)) >= SAME


def test_bf16(tiny):
    """With bf16 weights a vector stays within the stated tolerance in any batch."""
    backend = HfBackend(HfSpec(path=str(tiny("bert")), **{**TORCH, "dtype": "bf16"}))
    inputs = inputs_of(backend)
    alone = np.concatenate([embed(backend, [ids]) for ids in inputs])
    assert backend.info.dtype == "bf16"
    assert lowest_cosine(alone, embed(backend, inputs)) >= 0.9999
