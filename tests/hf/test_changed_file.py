"""Files of a Hugging Face directory that are written to while it is served."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.loaded_files import LoadedFiles
from embeddings_gateway.backends.spec import HfSpec
from tests.hf.torch_settings import TORCH


def names(backend):
    """Return the names of the files that a backend was loaded from."""
    return {path.name for path in backend.files}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_written_in_place(own, name):
    """Weights and tokenizer are looked at."""
    directory = own("bert")
    backend = HfBackend(HfSpec(path=str(directory), **TORCH))
    files = LoadedFiles(backend.files)
    assert files.changed() == ""
    with (directory / name).open("ab") as file:
        file.write(b" ")
    assert files.changed() == str((directory / name).resolve())
    files.close()
    backend.close()


def test_conversion(tiny):
    """A model that runs from a conversion is loaded from the conversion's files as well."""
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    backend = HfBackend(HfSpec(path=str(tiny("bert")), runtime="openvino", device="cpu", threads=1))
    assert {"model.safetensors", "tokenizer.json"} <= names(backend)
    assert any(name.endswith(".bin") for name in names(backend))
    backend.close()
