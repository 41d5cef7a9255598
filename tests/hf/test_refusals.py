"""What is refused when a model is loaded: the error names the file or key, and what to do."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

import torch
from safetensors.torch import load_file, save_file

from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
from tests.hf.refusal import change, refused
from tests.hf.torch_settings import TORCH
from tests.make_hf import write_json

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
