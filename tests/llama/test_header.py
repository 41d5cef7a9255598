"""Headers of GGUF files, read without the engine: what they say of the weights, and what would end the engine."""

from __future__ import annotations

import contextlib
import random
import struct

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")
pytest.importorskip("gguf", reason="files are written by gguf")

import gguf

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.gguf.header import MAGIC, read_header, weights_dtype

MATRICES = ("token_embd.weight", "position_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight")


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file with numbers, tokens, and four small matrices, the last of a type."""

    def make(numbers=None, tokens=("a", "b"), kind=gguf.GGMLQuantizationType.F32):
        writer = gguf.GGUFWriter(tmp_path / "model.gguf", "bert")
        for key, number in (numbers or {}).items():
            writer.add_uint32(key, number)
        writer.add_token_list(list(tokens))
        writer.add_token_scores([0.0] * len(tokens))
        for name in MATRICES:
            dtype = kind if name.startswith("blk") else gguf.GGMLQuantizationType.F32
            data = gguf.quantize(np.ones((2, 256), np.float32), dtype)
            writer.add_tensor(name, data, raw_dtype=dtype)
        writer.add_tensor("blk.0.norm.weight", np.ones(512 * 9, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / "model.gguf"

    return make


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0"])
def test_the_matrices_that_tokens_are_multiplied_by_count(name, write):
    """Embedding tables and vectors, which stay in float32 in quantised files, do not count."""
    header = read_header(write({"general.file_type": 0}, kind=gguf.GGMLQuantizationType[name]))
    assert header.matrices == {name.lower(): 2 * 512}
    assert header.quantised == name.startswith("Q")
    assert header.numbers["general.file_type"] == 0


@pytest.mark.parametrize(
    ("stated", "matrices", "dtype"),
    [
        ("q8_0", {"q8_0": 9}, "q8_0"),
        ("f32", {"q8_0": 9, "f32": 1}, "q8_0"),
        ("unknown", {"q8_0": 1, "f16": 9}, "f16"),
        ("q4_k_m", {"q5_0": 9, "q4_k": 2, "q8_0": 1}, "q4_k_m"),
        ("q8_0", {"f16": 9}, "f16"),
        ("bf16", {}, "bf16"),
    ],
)
def test_the_dtype_is_what_the_file_states_unless_its_weights_are_of_another(stated, matrices, dtype):
    """A mixture has the name that its file gives it; a wrong name, or none, is replaced by the commonest type."""
    assert weights_dtype(stated, matrices) == dtype


@pytest.mark.parametrize(
    ("numbers", "tokens", "message"),
    [
        ({}, ("a", "b", "a"), "token 2 twice"),
        ({}, ("a\0b", "a\0c"), "token 1 twice"),
        ({}, ("[EMPTY_1]", ""), "token 1 twice"),
        ({"bert.block_count": 0}, ("a",), "bert.block_count is 0; llama.cpp takes from 1 to 512"),
        ({"bert.block_count": 2**31}, ("a",), "bert.block_count is 2147483648"),
        ({"bert.expert_count": 1025}, ("a",), "bert.expert_count is 1025"),
        ({"split.count": 3}, ("a",), "one part of 3"),
    ],
)
def test_what_would_end_the_engine_is_refused(numbers, tokens, message, write):
    """Headers on which llama.cpp fails an assertion are refused before it sees them; so is a part of a model."""
    path = write(numbers, tokens)
    with pytest.raises(LoadError, match=message) as refusal:
        read_header(path)
    assert str(path) in str(refusal.value)


def test_a_header_cut_anywhere_is_refused(write):
    """Wherever it ends too early, the header is refused, and no other exception comes."""
    path = write({"general.file_type": 0})
    data = path.read_bytes()
    end = data.index(b"blk.0.norm.weight") + 17 + 4 + 8 + 4 + 8
    for size in range(24, end):
        path.write_bytes(data[:size])
        with pytest.raises(LoadError, match=r"cut short|unknown type"):
            read_header(path)


def test_a_damaged_header_is_read_within_the_file(write):
    """Other numbers anywhere in a header give a header or a refusal, whatever lengths and counts they announce."""
    source = random.Random(0)
    path = write({"general.file_type": 0, "bert.block_count": 1})
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(source.randint(1, 3)):
            place = source.randrange(len(MAGIC), 600)
            data[place : place + 8] = struct.pack("<Q", source.choice([0, 1, 2**31, 2**62, 2**64 - 1]))
        path.write_bytes(data)
        with contextlib.suppress(LoadError):
            read_header(path)
