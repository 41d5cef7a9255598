"""What is refused when a model is loaded: the error names the file or key, and what to do."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

import torch
from safetensors.torch import load_file, save_file
from transformers import CanineConfig, CanineModel

from embeddings_gateway.backends.checksum import sha256
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
from tests.hf.refusal import change, refused
from tests.hf.torch_settings import TORCH
from tests.make_hf import SIZES, write_json

FILES = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_tokens": 65}, "max_tokens is 65"),
        ({"max_tokens": 2}, "special tokens"),
        ({"dimensions": (16, 33)}, "dimensions has 33"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"sha256": {"absent.safetensors": "0" * 64}}, "absent.safetensors"),
        ({"revision": "main"}, "revision"),
    ],
)
def test_options_that_do_not_fit(tiny, settings, says):
    """An option that does not fit the model is named."""
    assert says in refused(tiny("bert"), **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tiny):
    """A GPU that is not there is not replaced by the processor in silence."""
    assert "use cpu or auto" in refused(tiny("bert"), device="cuda")
    assert "cuda:3" in refused(tiny("bert"), device="cuda:3")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("package:no_such_package/model", "pip install no-such-package"),
        ("package:json/no/such/directory", "no directory 'no/such/directory'"),
        ("package:../x", "package:module/directory"),
        ("/no/such/directory", "not a directory"),
    ],
)
def test_paths_that_lead_nowhere(path, says):
    """A path without a model says what is wrong with it."""
    assert says in refused(path)


def test_package_is_not_imported(tmp_path, monkeypatch):
    """Finding a model inside a package does not run the package."""
    (tmp_path / "explosive").mkdir()
    (tmp_path / "explosive/__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "explosive/model").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "config.json" in refused("package:explosive/model")


def test_pickled_weights(own):
    """A directory with only pickled weights is refused, and the pickle is not read."""
    directory = own("bert")
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert "safetensors only" in refused(directory)


@pytest.mark.parametrize("name", FILES)
def test_missing_files(own, name):
    """An incomplete directory is refused."""
    directory = own("bert")
    (directory / name).unlink()
    assert str(directory) in refused(directory)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
def test_damaged_files(own, name):
    """A damaged file is a LoadError, whichever library reads it."""
    directory = own("bert")
    (directory / name).write_bytes(b"{ not json or weights")
    assert str(directory) in refused(directory)


def test_missing_shard(own):
    """An index that names a shard that is not there is refused, and so is one that leads elsewhere."""
    directory = own("bert")
    (directory / "model.safetensors").unlink()
    index = directory / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"x": "model-00001-of-00002.safetensors"}})
    assert "model-00001-of-00002.safetensors" in refused(directory)
    write_json(index, {"weight_map": {"x": "../other/model.safetensors"}})
    assert "../other" in refused(directory)


def test_missing_weights(own):
    """A layer that the file lacks is not filled with random numbers."""
    directory = own("bert")
    weights = load_file(directory / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    assert "encoder.layer.1.output.dense.weight" in refused(directory)


def test_weights_the_architecture_lacks(own):
    """A layer in the file that the architecture does not have is not left out in silence."""
    directory = own("bert")
    weights = load_file(directory / "model.safetensors")
    weights["encoder.layer.0.adapter.weight"] = torch.zeros(2)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    assert "encoder.layer.0.adapter.weight" in refused(directory)


def test_code_of_the_model_never_runs(own):
    """A model that needs its own code is refused, and its code is not run."""
    directory = own("bert")
    (directory / "modeling.py").write_text("raise SystemExit('foreign code ran')")
    change(
        directory / "config.json",
        model_type="tiny_custom",
        auto_map={"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"},
    )
    assert "none is ever run" in refused(directory)


def test_auto_map_beside_a_known_architecture(own):
    """Where transformers knows the architecture itself, the model's own code is passed over."""
    directory = own("bert")
    (directory / "modeling.py").write_text("raise SystemExit('foreign code ran')")
    change(directory / "config.json", auto_map={"AutoModel": "modeling.Model"})
    change(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling.T", "modeling.T"]})
    HfBackend(HfSpec(path=str(directory), **TORCH))


@pytest.mark.parametrize("key", ["transformers_weights", "configuration_files"])
def test_configuration_that_leads_to_other_files(own, key):
    """A configuration that makes transformers load other files than those that were summed is refused by key."""
    directory = own("bert")
    change(directory / "config.json", **{key: ["other.safetensors"]})
    assert key in refused(directory)


@pytest.mark.parametrize("name", ["shard-00000-model-00001-of-00001.safetensors", "other.safetensors"])
def test_weights_beside_pinned_ones(own, name):
    """Beside pinned weights no others may lie; unpinned ones are never loaded in the place of the model's."""
    directory = own("bert")
    expected = HfBackend(HfSpec(path=str(directory), **TORCH))
    weights = {key: -tensor for key, tensor in load_file(directory / "model.safetensors").items()}
    save_file(weights, directory / name, metadata={"format": "pt"})
    assert name in refused(directory, sha256=sha256(directory / "model.safetensors"))
    unpinned = HfBackend(HfSpec(path=str(directory), **TORCH))
    batch = unpinned.tokenize(["a river"])
    vectors = [backend.run(batch, ("dense",))["dense"].values for backend in (unpinned, expected)]
    assert (vectors[0] == vectors[1]).all()


def test_settings_beside_pinned_ones(own):
    """A table that pins config.json has to pin every file that is read with it."""
    directory = own("bert")
    sums = {file.name: sha256(file) for file in directory.iterdir()}
    HfBackend(HfSpec(path=str(directory), sha256=sums, **TORCH))
    write_json(directory / "sentence_bert_config.json", {"do_lower_case": True})
    assert "sentence_bert_config.json" in refused(directory, sha256=sums)


def test_model_elsewhere(own, tmp_path):
    """Where the model lies in a folder below the path, or in a snapshot of a hub cache, the message says where."""
    model = own("bert")
    (tmp_path / "outer").mkdir()
    model.rename(tmp_path / "outer/inner")
    assert str(tmp_path / "outer/inner") in refused(tmp_path / "outer")
    snapshot = tmp_path / "models--org--name/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    (tmp_path / "outer/inner").rename(snapshot)
    assert str(snapshot) in refused(tmp_path / "models--org--name")


def test_onnx_alone(own):
    """A directory that has ONNX alone is refused for that."""
    directory = own("bert")
    (directory / "model.safetensors").unlink()
    (directory / "onnx").mkdir()
    (directory / "onnx/model.onnx").touch()
    assert "only ONNX" in refused(directory)


def test_adapter_without_a_model(own):
    """A directory of an adapter, which has no config.json, is refused with what to do."""
    directory = own("bert")
    write_json(directory / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "x/y"})
    (directory / "config.json").unlink()
    assert "merge it into its base model" in refused(directory)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"position_embedding_type": "alibi"}, "position_embedding_type ('alibi')"),
        ({"position_embedding_type": "relative_key"}, "BertModel does not implement"),
        ({"feed_forward_type": "geglu"}, "feed_forward_type"),
        ({"auto_map": {"AutoModel": "own.Model"}, "window_of_mine": 7}, "window_of_mine (7)"),
        ({"max_position_embeddings": 128}, "position_embeddings.weight is 64 x 32 and has to be 128 x 32"),
        ({"model_type": None}, "model_type"),
        ({"model_type": "unheard_of"}, "unheard_of"),
    ],
)
def test_configurations_that_the_class_does_not_fit(own, values, says):
    """What a configuration asks for and the architecture's class does not compute is refused by name."""
    directory = own("bert")
    change(directory / "config.json", **values)
    assert says in refused(directory)


@pytest.mark.parametrize(
    "values",
    [
        {"position_embedding_type": "absolute", "pooler_type": "first_token_transform", "output_past": True},
        {
            "_attn_implementation": "org/kernel",
            "attn_implementation": "org/kernel",
            "name_or_path": "org/name",
        },
        {
            "auto_map": {"AutoModel": "own.Model"},
            "use_flash_attn": True,
            "emb_pooler": "mean",
            "window": None,
        },
    ],
)
def test_configurations_with_keys_that_mean_nothing(own, values):
    """Keys that change no vector here are passed over, and code of the author's own gets a note."""
    directory = own("bert")
    change(directory / "config.json", **values)
    notes = HfBackend(HfSpec(path=str(directory), **TORCH)).info.notes
    assert ["own.Model" in note for note in notes] == ([True] if "auto_map" in values else [])


def test_model_without_token_embeddings(own):
    """An architecture that hashes characters has no vocabulary, and is refused."""
    directory = own("bert")
    sizes = {**SIZES, "num_hash_buckets": 8, "local_transformer_stride": 8}
    CanineModel(CanineConfig(**sizes)).save_pretrained(directory)
    assert "no table of token embeddings" in refused(directory)
