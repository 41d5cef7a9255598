"""Packed batches: for every family, against transformers and each input alone."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

import torch
from transformers import Lfm2Config, Lfm2Model, MobileBertConfig, MobileBertModel, Qwen3Config, Qwen3Model

from embeddings_gateway.backends.base import Batch, EmbedError
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.hf.network.network import Network
from embeddings_gateway.backends.hf.runtimes.runtime import RuntimeChoice
from embeddings_gateway.backends.hf.runtimes.torch_runtime import TorchRuntime
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine
from tests.hf.loading import load_in_torch
from tests.hf.reference import reference
from tests.make_hf import FAMILIES, POSITIONS, SIZES, VOCABULARY

PADDED = {"mpnet": "cannot be replaced", "t5": "position_bias"}
PACKED = sorted(FAMILIES.keys() - PADDED.keys())
POOLING = {"qwen3": "last"}
SAME = {"fp32": 0.99999, "bf16": 0.9999}
NEAR = {"fp32": 0.99999, "bf16": 0.999}
LENGTHS = (3, 1, 40, 17, 1, 2, 55, 9, 30, 62)
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = pytest.param("cuda:0", "bf16", marks=ON_GPU)
DEVICES = pytest.mark.parametrize(("device", "dtype"), [("cpu", "fp32"), ("cpu", "bf16"), GPU])


def loaded(directory, device="cpu", dtype="fp32", packed=True):
    """Load a directory in torch."""
    spec = HfSpec(path=str(directory), threads=1)
    return load_in_torch(spec, RuntimeChoice("torch", device, dtype), packed=packed)


def inputs_of(lengths=LENGTHS, seed=0):
    """Return inputs of ids without meaning, any of the vocabulary, padding and special tokens among them."""
    source = np.random.default_rng(seed)
    return [source.integers(0, VOCABULARY, length, np.int32) for length in lengths]


@DEVICES
@pytest.mark.parametrize("family", PACKED)
def test_vectors_are_those_of_padding(tiny, family, device, dtype):
    """In a packed batch each input has the vector that the padded network gives it alone."""
    packed, padded = (loaded(tiny(family), device, dtype, packed=choice).runtime for choice in (True, False))
    inputs = inputs_of()
    assert (packed.cost, padded.cost) == ("packed", "padded")
    alone = np.concatenate([padded.run(Batch.of([ids])) for ids in inputs])
    assert lowest_cosine(packed.run(Batch.of(inputs)), alone) >= NEAR[dtype]


@pytest.mark.parametrize("family", PACKED)
def test_vectors_are_those_of_transformers(tiny, family):
    """In a packed batch each input has the vector that transformers itself gives it alone."""
    inputs = inputs_of()
    expected = reference(tiny(family), inputs, POOLING.get(family, "mean"))
    assert lowest_cosine(loaded(tiny(family)).runtime.run(Batch.of(inputs)), expected) >= SAME["fp32"]


@DEVICES
@pytest.mark.parametrize("family", PACKED)
def test_batch_invariance(tiny, family, device, dtype):
    """An input has the same vector alone, beside one other, before or after it, and in a shuffled batch."""
    runtime = loaded(tiny(family), device, dtype).runtime
    inputs = inputs_of()
    other = inputs_of([23], seed=1)[0]
    alone = np.concatenate([runtime.run(Batch.of([ids])) for ids in inputs])
    order = np.random.default_rng(2).permutation(len(inputs))
    for batched in (
        np.concatenate([runtime.run(Batch.of([ids, other]))[:1] for ids in inputs]),
        np.concatenate([runtime.run(Batch.of([other, ids]))[1:] for ids in inputs]),
        runtime.run(Batch.of([inputs[i] for i in order]))[np.argsort(order)],
    ):
        assert lowest_cosine(alone, batched) >= SAME[dtype]


@pytest.mark.parametrize("family", PACKED)
def test_neighbours_are_not_seen(tiny, family):
    """Other tokens in the neighbours, and the very bits of an input's vector stay."""
    runtime = loaded(tiny(family)).runtime
    (one, two, three), (four, _, five) = inputs_of([9, 20, 7]), inputs_of([9, 20, 7], seed=1)
    assert (runtime.run(Batch.of([one, two, three]))[1] == runtime.run(Batch.of([four, two, five]))[1]).all()


@pytest.mark.parametrize("family", sorted(PADDED))
def test_what_cannot_be_packed_is_padded(tiny, family):
    """A model with another kind of attention is detected when it is loaded, noted, and stays padded."""
    tried, plain = loaded(tiny(family)), loaded(tiny(family), packed=False)
    inputs = inputs_of()
    assert tried.runtime.cost == "padded"
    assert len(tried.notes) == 1
    assert PADDED[family] in tried.notes[0]
    assert (tried.runtime.run(Batch.of(inputs)) == plain.runtime.run(Batch.of(inputs))).all()


@pytest.mark.parametrize("kind", ["convolution", "neighbours"])
def test_what_mixes_tokens_elsewhere_is_padded(kind):
    """A model that looks at a token's neighbours outside of its attention is found out by its vectors."""
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": VOCABULARY, "initializer_range": 0.3}
    if kind == "convolution":
        layers = ["conv", "full_attention"]
        model = Lfm2Model(Lfm2Config(num_key_value_heads=2, layer_types=layers, use_cache=False, **sizes))
    else:
        small = {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}
        model = MobileBertModel(MobileBertConfig(**sizes, **small))
    runtime = TorchRuntime(Network(model, ["mean"], [], True), torch.device("cpu"), "fp32", 0)
    inputs = inputs_of()
    before = runtime.run(Batch.of(inputs))
    assert "cosine" in runtime.use_packing(POSITIONS, VOCABULARY)
    assert runtime.cost == "padded"
    assert (runtime.run(Batch.of(inputs)) == before).all()


def test_processors_pad(tiny):
    """On a processor, which has no kernel for it, packing is not tried and there is no note."""
    result = loaded(tiny("bert"), packed=None)
    assert (result.runtime.cost, result.notes) == ("padded", ())


@ON_GPU
@pytest.mark.parametrize(("family", "cost"), [("bert", "packed"), ("t5", "padded")])
def test_backend_states_the_cost(tiny, family, cost):
    """On a GPU in bf16 a model states that its batches are packed, or a note why they are not."""
    info = HfBackend(HfSpec(path=str(tiny(family)), runtime="torch", device="cuda", dtype="bf16")).info
    assert (info.cost, len(info.notes)) == (cost, int(cost == "padded"))


@pytest.mark.parametrize("pooling", ["cls", "last", "max", "mean", "mean_sqrt_len", "weighted_mean"])
def test_pooling(tiny, pooling):
    """Every pooling that can be configured gives the vectors that transformers gives each input alone."""
    spec = HfSpec(path=str(tiny("bert")), threads=1, pooling=pooling)
    runtime = load_in_torch(spec, RuntimeChoice("torch", "cpu", "fp32"), packed=True).runtime
    inputs = inputs_of()
    assert runtime.cost == "packed"
    assert (
        lowest_cosine(runtime.run(Batch.of(inputs)), reference(tiny("bert"), inputs, pooling)) >= SAME["fp32"]
    )


def test_padding_id_inside_a_text(tiny):
    """Where positions leave out tokens that are the padding id, they do so too in a packed batch."""
    runtime = loaded(tiny("xlm-roberta")).runtime
    pad = FAMILIES["xlm-roberta"].tokens.index("<pad>")
    inputs = [np.array(ids, np.int32) for ids in ([0, pad, 9, pad, pad, 8, 2], [pad, 7], [pad], [5, 6, pad])]
    expected = reference(tiny("xlm-roberta"), inputs, "mean")
    assert lowest_cosine(runtime.run(Batch.of(inputs)), expected) >= SAME["fp32"]


def test_longest_inputs(tiny):
    """Several inputs of the stated limit are packed, beyond the model's table of positions."""
    for family, longest in ("bert", POSITIONS), ("xlm-roberta", POSITIONS - 2):
        inputs = inputs_of([longest] * 3)
        expected = reference(tiny(family), inputs, "mean")
        assert lowest_cosine(loaded(tiny(family)).runtime.run(Batch.of(inputs)), expected) >= SAME["fp32"]


def test_causal_window():
    """A decoder with a sliding window and grouped heads gives the vectors of its own attention."""
    torch.manual_seed(0)
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "use_cache": False}
    heads = {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
    model = Qwen3Model(Qwen3Config(vocab_size=VOCABULARY, **heads, **window, **SIZES))
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    runtime = TorchRuntime(Network(model, ["last"], [], True), torch.device("cpu"), "fp32", 0)
    inputs = inputs_of()
    alone = np.concatenate([runtime.run(Batch.of([ids])) for ids in inputs])
    assert runtime.use_packing(POSITIONS, VOCABULARY) == ""
    assert lowest_cosine(runtime.run(Batch.of(inputs)), alone) >= SAME["fp32"]


def test_failure_is_an_embed_error(tiny):
    """A failure is an EmbedError without the input, and the runtime goes on working until it is closed."""
    runtime = loaded(tiny("bert")).runtime
    with pytest.raises(EmbedError) as caught:
        runtime.run(Batch.of([np.array([123456], np.int32)]))
    assert "123456" not in str(caught.value)
    assert runtime.run(Batch.of(inputs_of())).shape == (len(LENGTHS), 32)
    runtime.close()
    with pytest.raises(EmbedError, match="closed"):
        runtime.run(Batch.of(inputs_of()))


def test_rows_are_plain_arrays(tiny):
    """Vectors are float32, contiguous, writable, and no torch object."""
    vectors = loaded(tiny("bert"), dtype="bf16").runtime.run(Batch.of(inputs_of()))
    assert type(vectors) is np.ndarray
    assert (vectors.dtype, vectors.flags.c_contiguous, vectors.flags.writeable) == (np.float32, True, True)
