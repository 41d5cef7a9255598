"""Models that treat long inputs in another way than short ones: right alone, and beside inputs of any length."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

from safetensors.torch import load_file, save_file

from embeddings_gateway.backends.base import EmbedError, LoadError
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.hf.conversion.probes import (
    BATCH_TOKENS,
    LONG_TOKENS_MAX,
    _batches,
    long_lengths,
)
from embeddings_gateway.backends.hf.network import network
from embeddings_gateway.backends.hf.runtimes.torch_runtime import TorchRuntime
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine
from tests.hf.reference import reference
from tests.hf.torch_settings import TORCH
from tests.make_hf import BY_LENGTH
from tests.vectors import embed

LENGTHS = (3, 64, 12, 13, 24, 25, 1, 40, 63, 9)
OPENVINO = {"runtime": "openvino", "device": "cpu", "threads": 1, "pooling": "mean", "max_batch_tokens": 1024}


def inputs_of_all_lengths():
    """Return inputs below and above every length at which the tiny models change."""
    source = np.random.default_rng(3)
    return [source.integers(5, 500, length, np.int32) for length in LENGTHS]


@pytest.fixture(params=sorted(BY_LENGTH))
def directory(tiny, request):
    """Return the directory of each model in turn."""
    return tiny(request.param)


@pytest.mark.parametrize(
    "settings", [{**TORCH, "pooling": "mean"}, {**OPENVINO, "dtype": "fp32"}], ids=["torch", "openvino"]
)
def test_beside_inputs_of_any_length(directory, settings):
    """Beyond the window and the original length an input has transformers' vector, whatever lies beside it."""
    if settings["runtime"] == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    backend = HfBackend(HfSpec(path=str(directory), **settings))
    inputs = inputs_of_all_lengths()
    expected = reference(directory, inputs, "mean")
    assert lowest_cosine(embed(backend, inputs), expected) >= 0.99999
    assert lowest_cosine(np.concatenate([embed(backend, [ids]) for ids in inputs]), expected) >= 0.99999
    assert backend.info.notes == ()


def test_buckets_of_positions_in_bf16(own):
    """Where vectors depend on buckets of relative positions they hold in bf16: buckets are computed exactly."""
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    directory = own("mpnet")
    weights = load_file(directory / "model.safetensors")
    weights["encoder.relative_attention_bias.weight"] *= 20
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    backend = HfBackend(HfSpec(path=str(directory), **OPENVINO, dtype="bf16"))
    inputs = [ids for ids in inputs_of_all_lengths() if len(ids) <= backend.info.max_tokens]
    assert lowest_cosine(embed(backend, inputs), reference(directory, inputs, "mean")) >= 0.999


def test_a_model_that_is_right_for_short_texts_only(tiny, monkeypatch):
    """A model whose long inputs change beside others is refused when it is loaded, with the lengths."""
    monkeypatch.setattr(network, "split_by_length", lambda _: False)
    settings = {**TORCH, "pooling": "mean"}
    assert HfBackend(HfSpec(path=str(tiny("phi3")), **{**settings, "max_batch_tokens": 48}))
    with pytest.raises(LoadError, match="64 and 8 tokens"):
        HfBackend(HfSpec(path=str(tiny("phi3")), **settings))


def test_a_model_that_fails_on_long_texts(tiny, monkeypatch):
    """A model that fails on its longest input is refused when it is loaded, with the length."""
    run = TorchRuntime.run

    def fail_on_long(runtime, batch):
        if batch.lengths.max() == 64:
            raise EmbedError("no")
        return run(runtime, batch)

    monkeypatch.setattr(TorchRuntime, "run", fail_on_long)
    settings = {**TORCH, "pooling": "mean", "max_batch_tokens": 1024}
    with pytest.raises(LoadError, match="fails on an input of 64 tokens"):
        HfBackend(HfSpec(path=str(tiny("phi3")), **settings))


def test_the_lengths_that_are_tried():
    """They are just above and at twice each length of the configuration, and the longest; the fewer the larger."""
    config = {
        "sliding_window": 100,
        "rope_scaling": {"original_max_position_embeddings": 300},
        "max_length": 7,
    }
    assert long_lengths(config, 512, 1000) == [101, 200, 301, 512]
    assert long_lengths({"sliding_window": None}, None, 1000) == [2048]
    assert long_lengths(config, 10**6, 1000)[-1] == LONG_TOKENS_MAX
    assert long_lengths({"sliding_window": 4096}, 32768, 7 * 10**9) == [4097]


def test_batches_of_probes_are_bounded():
    """Neighbours are computed together: few, and of few tokens, but for one that is alone longer than that."""
    lengths = np.array([5] * 10 + [BATCH_TOKENS // 2, 3, BATCH_TOKENS + 1, 2], np.int32)
    assert list(_batches(lengths)) == [(0, 8), (8, 10), (10, 12), (12, 13), (13, 14)]
