"""Modules and settings that are refused: each would mean a vector that is not computed here."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

import torch
from safetensors.torch import save_file

from embeddings_gateway.backends.checksum import sha256
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
from tests.hf.refusal import change, refused
from tests.hf.torch_settings import TORCH
from tests.make_hf import HIDDEN, add_modules, write_json

POOLING = ("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": "mean"})
MESSAGE = {"message": {"method": "forward", "method_output_name": "last_hidden_state"}}
DENSE = {"in_features": HIDDEN, "out_features": 8}
DENSE_WEIGHTS = "2_Dense/model.safetensors"


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("WeightedLayerPooling", {}, "WeightedLayerPooling"),
        ("Dense", {**DENSE, "activation_function": "os.system"}, "activation_function 'os.system'"),
        ("Dense", {**DENSE, "activation_function": "torch.nn.Bilinear"}, "Tanh"),
        ("Dense", {**DENSE, "module_input_name": "token_embeddings"}, "sentence_embedding"),
        ("Dense", {"in_features": "x", "out_features": 8}, "in_features"),
        ("Dense", DENSE, "model.safetensors"),
    ],
)
def test_modules(own, kind, config, says):
    """A module that is not understood in full is refused by name."""
    assert says in refused(add_modules(own("bert"), POOLING, (kind, config)))


def test_dense_of_another_width(own):
    """A Dense module that does not fit the pooled vector is found before anything is served."""
    directory = add_modules(own("bert"), POOLING, ("Dense", {"in_features": 48, "out_features": 8}))
    layer = torch.nn.Linear(48, 8)
    weights = {f"linear.{name}": tensor for name, tensor in layer.state_dict().items()}
    save_file(weights, directory / "2_Dense/model.safetensors")
    assert "first input" in refused(directory)
    save_file({"linear.weight": weights["linear.weight"]}, directory / "2_Dense/model.safetensors")
    assert "does not fit" in refused(directory)


def test_one_sum_for_several_files(own):
    """One checksum is of one weights file: with Dense modules a table is wanted, which pins them too."""
    directory = add_modules(own("bert"), POOLING, ("Dense", DENSE))
    save_file(
        {"linear.weight": torch.ones(8, HIDDEN), "linear.bias": torch.ones(8)}, directory / DENSE_WEIGHTS
    )
    sums = {name: sha256(directory / name) for name in ("model.safetensors", DENSE_WEIGHTS)}
    assert "give a table" in refused(directory, sha256=sums["model.safetensors"])
    HfBackend(HfSpec(path=str(directory), sha256=sums, **TORCH))
    save_file(
        {"linear.weight": torch.zeros(8, HIDDEN), "linear.bias": torch.ones(8)}, directory / DENSE_WEIGHTS
    )
    assert DENSE_WEIGHTS in refused(directory, sha256=sums)


@pytest.mark.parametrize("order", [["Dense", "Pooling"], ["Normalize", "Pooling"], ["Normalize"], []])
def test_order_of_modules(own, order):
    """Modules in an order that would mean another computation are refused."""
    configs = {"Pooling": POOLING[1], "Dense": DENSE, "Normalize": {}}
    assert "modules must be" in refused(add_modules(own("bert"), *[(kind, configs[kind]) for kind in order]))


def test_foreign_module(own):
    """A module of the model's own code is refused."""
    directory = add_modules(own("bert"), POOLING)
    modules = directory / "modules.json"
    modules.write_text(modules.read_text().replace("sentence_transformers.models.Transformer", "st.T"))
    assert "'st.T'" in refused(directory)


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "newest"}, "'newest'"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt"),
        ("config_sentence_transformers.json", {"default_prompt_name": "absent"}, "default_prompt_name"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task"),
        ("sentence_bert_config.json", {"config_args": {"rope_theta": 1}}, "rope_theta"),
        (
            "sentence_bert_config.json",
            {
                "modality_config": {
                    "message": {"method": "forward", "method_output_name": "last_hidden_state"}
                }
            },
            "modality_config",
        ),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ("adapter_config.json", {"base_model_name_or_path": "x/y"}, "adapter"),
    ],
)
def test_settings(own, file, values, says):
    """A setting that would change the vector and is not supported is named."""
    directory = add_modules(own("bert"), POOLING)
    write_json(directory / "config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    change(directory / file, **values)
    assert says in refused(directory)


def test_other_encoder_decoders(own):
    """An encoder-decoder whose encoder does not stand alone is refused."""
    directory = own("bert")
    write_json(directory / "config.json", {"model_type": "bart"})
    assert "bart is an encoder-decoder" in refused(directory)
