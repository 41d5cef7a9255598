"""Layouts of sentence-transformers, old and new, against sentence-transformers itself."""

from __future__ import annotations

import codecs
import shutil

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")
pytest.importorskip("sentence_transformers", reason="the peer to compare with")

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine
from tests.hf.torch_settings import TORCH
from tests.make_hf import HIDDEN, add_modules, write_json
from tests.texts import varied_texts
from tests.vectors import embed, ids_of

SAME = 0.99999
TEXTS = [text for text in varied_texts(80) if len(text) < 60]


def saved(directory, tiny, *modules, **settings):
    """Save a model as sentence-transformers saves it today; return its directory."""
    torch.manual_seed(5)
    transformer = Transformer(str(tiny))
    model = SentenceTransformer(modules=[transformer, *modules], device="cpu", **settings)
    model.save(str(directory), create_model_card=False)
    return directory


def compare(directory, **settings):
    """Return the lowest cosine between our vectors and sentence-transformers'."""
    backend = HfBackend(HfSpec(path=str(directory), **{**TORCH, **settings}))
    theirs = SentenceTransformer(str(directory), device="cpu").encode(TEXTS, show_progress_bar=False)
    ours = embed(backend, ids_of(backend, TEXTS))
    if not backend.info.normalized:
        assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    return lowest_cosine(ours, theirs)


@pytest.mark.parametrize(
    "mode",
    ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("cls", "mean", "max")],
)
def test_pooling_of_today(tmp_path, tiny, mode):
    """Each pooling that sentence-transformers writes today is computed as it does, joined in order."""
    from_peer = Pooling(HIDDEN, mode)
    assert compare(saved(tmp_path, tiny("bert"), from_peer), normalize=False) >= SAME


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_weightedmean_tokens": True}, "weighted_mean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "max+mean"),
        ({}, "mean"),
    ],
)
def test_pooling_of_old(own, flags, expected):
    """The booleans of older files are understood, with several joined and none meaning the mean."""
    directory = add_modules(own("bert"), ("Pooling", {"word_embedding_dimension": HIDDEN, **flags}))
    assert HfBackend(HfSpec(path=str(directory), **TORCH)).info.pooling == expected
    assert compare(directory) >= SAME


@pytest.mark.parametrize("activation", ["Tanh", "Identity", "GELU", "ReLU", "SiLU", "Sigmoid"])
@pytest.mark.parametrize(("width", "residual"), [(16, False), (HIDDEN, True), (16, True)])
def test_dense_and_normalize(tmp_path, tiny, activation, width, residual):
    """Dense layers with each activation, with and without residual, and Normalize match the peer."""
    dense = Dense(HIDDEN, width, activation_function=getattr(torch.nn, activation)(), use_residual=residual)
    directory = saved(tmp_path, tiny("bert"), Pooling(HIDDEN, "mean"), dense, Normalize())
    assert compare(directory) >= SAME
    assert HfBackend(HfSpec(path=str(directory), **TORCH)).info.dimensions == width


def test_two_dense_layers(tmp_path, tiny):
    """Two Dense layers without bias run one after the other."""
    layers = [
        Dense(HIDDEN, 64, bias=False, activation_function=torch.nn.Identity()),
        Dense(64, HIDDEN, bias=False, activation_function=torch.nn.Identity()),
    ]
    directory = saved(tmp_path, tiny("bert"), Pooling(HIDDEN, "mean"), *layers)
    assert compare(directory, normalize=False) >= SAME


@pytest.mark.parametrize("family", ["xlm-roberta", "mpnet", "modernbert", "nomic-bert", "qwen3", "t5"])
def test_families(tmp_path, tiny, family):
    """Every family matches the peer too, tokenizer included."""
    pooling = Pooling(HIDDEN, "mean")
    assert compare(saved(tmp_path, tiny(family), pooling)) >= SAME


def test_dropout(own):
    """A Dropout module, which acts in training only, is passed over."""
    pooling = ("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": "mean"})
    directory = add_modules(own("bert"), pooling, ("Dropout", {"dropout": 0.2}))
    assert compare(directory) >= SAME


@pytest.mark.parametrize("spoilt", ["absent", "unknown"])
def test_configured_pooling_in_the_place_of_a_spoilt_one(own, spoilt):
    """A Pooling module that is missing or not understood is refused, and replaced by the configured pooling."""
    directory = add_modules(own("bert"), ("Pooling", {"pooling_mode": "attention"}))
    if spoilt == "absent":
        shutil.rmtree(directory / "1_Pooling")
    with pytest.raises(LoadError, match="set pooling"):
        HfBackend(HfSpec(path=str(directory), **TORCH))
    assert HfBackend(HfSpec(path=str(directory), **TORCH, pooling="max")).info.pooling == "max"


def test_files_of_other_hands(own):
    """A byte order mark and nulls in settings mean nothing."""
    directory = add_modules(own("bert"), ("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": "mean"}))
    modules = directory / "modules.json"
    modules.write_bytes(codecs.BOM_UTF8 + modules.read_bytes())
    write_json(directory / "config_sentence_transformers.json", {"prompts": None, "model_type": None})
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": 32, "model_args": None})
    info = HfBackend(HfSpec(path=str(directory), **TORCH)).info
    assert (info.max_tokens, info.prompts) == (32, {})


def test_transformer_in_a_subfolder(own, tmp_path):
    """A transformer in 0_Transformer is found, with the settings beside it."""
    inner = own("bert")
    root = tmp_path / "root"
    root.mkdir()
    inner.rename(root / "0_Transformer")
    add_modules(root, ("Pooling", {"word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": True}))
    entries = (root / "modules.json").read_text().replace('"path": ""', '"path": "0_Transformer"')
    (root / "modules.json").write_text(entries)
    write_json(
        root / "0_Transformer/sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False}
    )
    backend = HfBackend(HfSpec(path=str(root), **TORCH))
    assert (backend.info.pooling, backend.info.max_tokens) == ("cls", 24)


def test_lower_case(own):
    """With do_lower_case text is lower-cased first, as in the peer, though the tokenizer keeps case."""
    directory = add_modules(own("qwen3"), ("Pooling", {"pooling_mode_mean_tokens": True}))
    write_json(directory / "1_Pooling/config.json", {"embedding_dimension": HIDDEN, "pooling_mode": "mean"})
    plain = HfBackend(HfSpec(path=str(directory), **TORCH))
    write_json(directory / "sentence_bert_config.json", {"do_lower_case": True})
    lower = HfBackend(HfSpec(path=str(directory), **TORCH))
    upper, down = "THE Old Bridges", "the old bridges"
    assert not np.array_equal(ids_of(plain, [upper])[0], ids_of(plain, [down])[0])
    assert np.array_equal(ids_of(lower, [upper])[0], ids_of(plain, [down])[0])
    assert lower.info.fingerprint != plain.info.fingerprint
    assert compare(directory) >= SAME


def test_prompts_and_widths(own):
    """Prompts and Matryoshka widths come from the files; configured widths replace them."""
    directory = add_modules(own("bert"), ("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": "mean"}))
    author = {
        "prompts": {"query": "query: ", "document": None},
        "default_prompt_name": "query",
        "truncate_dim": 16,
        "matryoshka_dims": [8, 32],
    }
    write_json(directory / "config_sentence_transformers.json", author)
    info = HfBackend(HfSpec(path=str(directory), **TORCH)).info
    assert info.prompts == {"query": "query: ", "document": ""}
    assert (info.default_prompt, info.supported_dimensions) == ("query", (8, 16, 32))
    assert (info.default_dimensions, "16 of their 32" in info.notes[0]) == (16, True)
    info = HfBackend(HfSpec(path=str(directory), **TORCH, dimensions=(4,))).info
    assert (info.supported_dimensions, info.default_dimensions, info.notes) == ((4, 32), None, ())


def test_configured_prompts(own):
    """Configured prompts replace the model's own, and its default with them; they are part of the space."""
    directory = add_modules(own("bert"), ("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": "mean"}))
    author = {"prompts": {"query": "query: ", "other": "o: "}, "default_prompt_name": "query"}
    write_json(directory / "config_sentence_transformers.json", author)

    def facts(**configured):
        info = HfBackend(HfSpec(path=str(directory), **TORCH, **configured)).info
        return info.prompts, info.default_prompt, info.fingerprint

    own_words, own_default, own_space = facts()
    assert (own_words, own_default) == (author["prompts"], "query")
    assert facts(default_prompt="")[:2] == (own_words, None)
    assert facts(default_prompt="other")[:2] == (own_words, "other")
    words, default, space = facts(prompts={"document": "d: "})
    assert (words, default) == ({"document": "d: "}, None)
    assert space != own_space
    with pytest.raises(LoadError, match="default_prompt is 'query'"):
        facts(prompts={"document": "d: "}, default_prompt="query")


@pytest.mark.parametrize(
    ("similarity", "module", "override", "expected"),
    [
        (None, False, None, True),
        ("cosine", False, None, True),
        ("dot", False, None, False),
        ("dot", True, None, True),
        ("dot", False, True, True),
        ("cosine", True, False, False),
    ],
)
def test_normalizing(own, similarity, module, override, expected):
    """Vectors get unit length, except for dot product or where the configuration says no."""
    modules = [("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": "mean"})]
    directory = add_modules(own("bert"), *modules, *([("Normalize", {})] if module else []))
    write_json(directory / "config_sentence_transformers.json", {"similarity_fn_name": similarity})
    backend = HfBackend(HfSpec(path=str(directory), **TORCH, normalize=override))
    lengths = np.linalg.norm(embed(backend, ids_of(backend, TEXTS)), axis=1)
    assert backend.info.normalized is expected
    assert np.allclose(lengths, 1, atol=1e-6) is expected
