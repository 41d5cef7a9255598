"""Files and options that cannot be served: each is a LoadError that says why, and the process lives on."""

from __future__ import annotations

import errno
import struct

import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.checksum import sha256
from embeddings_gateway.backends.gguf.bindings import llama


@pytest.fixture
def damaged(bert_file, tmp_path):
    """Return a function from a change of the tiny BERT's bytes to the file it makes."""

    def write(change, name="model.gguf"):
        path = tmp_path / name
        path.write_bytes(change(bert_file("cls").read_bytes()))
        return path

    return write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "not a GGUF file"),
        (lambda data: b"PK\x03\x04" + data[4:], "not a GGUF file"),
        (lambda data: data[:12], "goes on after 12 bytes"),
        (lambda data: data[:4] + struct.pack("<I", 99) + data[8:], "GGUF version 99"),
        (lambda data: data[:8] + struct.pack("<Q", 0) + data[16:], "holds no tensors"),
        (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], "too small for what its header"),
        (lambda data: data[:16] + struct.pack("<Q", 2**62) + data[24:], "too small for what its header"),
        (lambda data: data[:700], "goes on after 700 bytes"),
        (lambda data: data[:3000], "goes on after 3000 bytes"),
        (lambda data: data[: len(data) // 2], "not within the file bounds"),
        (lambda data: data[:-1000], "not within the file bounds"),
        (lambda data: data.replace(b"bert", b"clip"), "llama.cpp cannot load it"),
        (lambda data: data.replace(b"blk.1.attn_q.weight", b"blk.9.attn_q.weight"), "blk.1.attn_q"),
        (lambda data: data.replace(b"bos_token_id", b"bos_token_xx"), "no tokenizer.ggml.bos_token_id"),
    ],
)
def test_a_damaged_file_is_refused(change, message, damaged, open_backend):
    """A file that is empty, cut, altered or of another kind is refused with its path and the reason."""
    path = damaged(change)
    with pytest.raises(LoadError, match=message) as refusal:
        open_backend(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("cut", range(40, 3800, 160))
def test_a_file_cut_anywhere_in_its_metadata_is_refused(cut, damaged, open_backend):
    """Wherever the metadata ends too early, the file is refused."""
    with pytest.raises(LoadError):
        open_backend(damaged(lambda data: data[:cut]))


def test_a_path_must_lead_to_a_file(tmp_path, open_backend):
    """A missing file, a directory and a relative path are refused."""
    with pytest.raises(LoadError, match="there is no file"):
        open_backend(tmp_path / "absent.gguf")
    with pytest.raises(LoadError, match="there is no file"):
        open_backend(tmp_path)
    with pytest.raises(LoadError, match="absolute path"):
        open_backend("model.gguf")


def test_a_part_of_a_split_model_is_refused(damaged, open_backend):
    """One of several files is refused, for the sum of one says nothing of the others."""
    with pytest.raises(LoadError, match="one part of 3"):
        open_backend(damaged(lambda data: data, "model-00001-of-00003.gguf"))


def test_the_sum_is_verified_before_the_file_is_parsed(damaged, open_backend):
    """A wrong sum is refused with the one that the file has; the right one loads."""
    path = damaged(lambda data: data)
    assert open_backend(path, sha256=sha256(path)).info.created == int(path.stat().st_mtime)
    assert open_backend(path, sha256={path.name: sha256(path)})
    with pytest.raises(LoadError, match=sha256(path)):
        open_backend(path, sha256="0" * 64)
    path = damaged(lambda data: data[:700])
    with pytest.raises(LoadError, match=sha256(path)):
        open_backend(path, sha256="0" * 64)


def test_a_file_that_cannot_be_read_is_refused(bert_file, open_backend, monkeypatch):
    """A file without permission to read it is refused with that reason."""

    def forbid(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checksum, "sha256", forbid)
    with pytest.raises(LoadError, match="cannot be read: Permission denied"):
        open_backend(bert_file("cls"))


@pytest.mark.parametrize(
    ("pooling", "message"), [(None, "names no pooling"), ("none", "for each token"), ("rank", "scores")]
)
def test_a_pooling_that_gives_no_vector_is_refused(pooling, message, bert_file, open_backend):
    """Files that pool not at all, or into scores, need the configuration's word, and load with it."""
    with pytest.raises(LoadError, match=message) as refusal:
        open_backend(bert_file(pooling))
    assert 'pooling = "mean"' in str(refusal.value)
    assert open_backend(bert_file(pooling), pooling="mean").info.pooling == "mean"


def test_more_tokens_than_the_model_takes_are_refused(bert_file, open_backend):
    """A max_tokens above the file's context length is refused."""
    with pytest.raises(LoadError, match="max_tokens is 65, but the model takes 64"):
        open_backend(bert_file("cls"), max_tokens=65)


def test_more_dimensions_than_the_model_has_are_refused(bert_file, open_backend):
    """A Matryoshka size above the width is refused; smaller ones are stated in order, the width last."""
    with pytest.raises(LoadError, match="dimensions has 128"):
        open_backend(bert_file("cls"), dimensions=(32, 128))
    info = open_backend(bert_file("cls"), dimensions=(32, 16)).info
    assert info.supported_dimensions == (16, 32, 64)


@pytest.mark.skipif(llama.llama_supports_gpu_offload(), reason="this build can use a GPU")
def test_layers_on_a_gpu_need_a_build_that_has_it(bert_file, open_backend):
    """Layers for a GPU are refused by a build for processors, with the remedy."""
    with pytest.raises(LoadError, match="set n_gpu_layers = 0"):
        open_backend(bert_file("cls"), n_gpu_layers=-1)


def test_a_refused_file_is_no_obstacle_to_the_next(damaged, bert_file, open_backend):
    """After a refusal in the engine a whole file loads, and an older reason is not given again."""
    with pytest.raises(LoadError, match="file bounds"):
        open_backend(damaged(lambda data: data[:-1000]))
    with pytest.raises(LoadError, match="attn_q"):
        open_backend(damaged(lambda data: data.replace(b"blk.1.attn_q.weight", b"blk.9.attn_q.weight")))
    assert open_backend(bert_file("cls")).info.runtime == "llama.cpp"
