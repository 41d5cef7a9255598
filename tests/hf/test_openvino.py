"""The OpenVINO runtime: the vectors of torch, faster, from a conversion that a process of its own makes."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")
pytest.importorskip("openvino", reason="the openvino extra is not installed")

from embeddings_gateway.backends.base import EmbedError, LoadError
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.hf.runtimes.openvino_runtime import round_up
from embeddings_gateway.backends.invariance import BATCH_INVARIANCE
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine
from tests.hf.torch_settings import TORCH
from tests.make_hf import FAMILIES, write_json
from tests.texts import varied_texts
from tests.vectors import embed, ids_of

NEAR = {"fp32": 0.9999, "bf16": 0.999}
SETTINGS = {"runtime": "openvino", "device": "cpu", "threads": 1}
IMPORTED = """
import json, sys
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
backend = HfBackend(HfSpec(**json.loads(sys.argv[1])))
vectors = backend.run(backend.tokenize(["a river"]), ("dense",))["dense"].values
print(json.dumps([len(vectors), sorted({"torch", "transformers", "openvino_telemetry"} & {
    name for name, module in sys.modules.items() if module is not None})]))
"""
GROWTH = """
import sys
import numpy as np
from pathlib import Path
from embeddings_gateway.backends.base import Batch
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec

def resident():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])

backend = HfBackend(HfSpec(path=sys.argv[1], runtime="openvino", threads=1, dtype="fp32"))
source = np.random.default_rng(0)
sizes = []
for number in range(2000):
    shape = (int(source.integers(1, 33)), int(source.integers(3, 65)))
    ids = source.integers(5, 500, shape[0] * shape[1]).astype(np.int32)
    backend.run(Batch(ids, np.full(shape[0], shape[1], np.int32)), ("dense",))
    if number in (399, 1999):
        sizes.append(resident())
print(sizes[1] - sizes[0])
"""


def load(directory, **settings):
    """Load a directory with OpenVINO."""
    return HfBackend(HfSpec(path=str(directory), **{**SETTINGS, **settings}))


def inputs_of(backend, count=40):
    """Return token ids of varied texts that the model can take."""
    limit = backend.info.max_tokens
    return [ids for ids in ids_of(backend, varied_texts(count * 3)) if len(ids) <= limit][:count]


def facts_of(backend):
    """Return what is true of a model, but for what follows from its runtime and the machine's speed."""
    facts = msgspec.to_builtins(backend.info)
    return {name: fact for name, fact in facts.items() if name not in {"fingerprint", "max_batch_tokens"}}


def python(program: str, *arguments: str) -> str:
    """Run a program in a process of its own and return what it prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_family_matches_torch(tiny, family):
    """Inputs of all lengths, alone and together in any order, have the vectors that torch gives."""
    plain, backend = HfBackend(HfSpec(path=str(tiny(family)), **TORCH)), load(tiny(family), dtype="fp32")
    inputs = inputs_of(plain)
    expected = np.concatenate([embed(plain, [ids]) for ids in inputs])
    alone = np.concatenate([embed(backend, [ids]) for ids in inputs])
    order = np.random.default_rng(0).permutation(len(inputs))
    shuffled = embed(backend, [inputs[i] for i in order])[np.argsort(order)]
    assert lowest_cosine(alone, expected) >= NEAR["fp32"]
    assert lowest_cosine(shuffled, alone) >= BATCH_INVARIANCE["fp32"]
    assert facts_of(backend) == facts_of(plain) | {"runtime": "openvino"}


def test_torch_is_not_imported(tiny):
    """A process that starts from a cached conversion imports neither torch nor transformers, and prints nothing."""
    directory = tiny("bert")
    load(directory, dtype="fp32")
    settings = json.dumps({"path": str(directory), "dtype": "fp32", **SETTINGS})
    assert json.loads(python(IMPORTED, settings)) == [1, []]


def test_vocabulary_without_tokenizer_json_is_kept(own):
    """Also a model whose vocabulary transformers has to convert starts without it the second time."""
    directory = own("bert")
    words = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    (directory / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)))
    (directory / "tokenizer.json").unlink()
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    first = load(directory, dtype="fp32")
    settings = json.dumps({"path": str(directory), "dtype": "fp32", **SETTINGS})
    assert json.loads(python(IMPORTED, settings)) == [1, []]
    again = load(directory, dtype="fp32")
    texts = varied_texts(20)
    assert [ids.tolist() for ids in ids_of(again, texts)] == [ids.tolist() for ids in ids_of(first, texts)]


def test_memory_is_bounded_under_new_shapes(tiny):
    """Two thousand batches of ever new shapes leave the resident set where it was after warm-up."""
    directory = str(tiny("bert"))
    load(directory, dtype="fp32")
    assert int(python(GROWTH, directory)) < 16 * 1024  # KiB


def test_foreign_ids_are_refused(tiny):
    """An id outside the vocabulary or an input that is too long fails, and the backend goes on working."""
    backend = load(tiny("bert"), dtype="fp32")
    for wrong in (np.array([123456], np.int32), np.full(65, 7, np.int32)):
        with pytest.raises(EmbedError) as caught:
            embed(backend, [wrong])
        assert "123456" not in str(caught.value)
    assert embed(backend, ids_of(backend, ["fine"])).shape == (1, 32)


def test_rows_are_independent(tiny):
    """A batch's vectors stay as they are when the next one is computed, and are no library's object."""
    backend = load(tiny("bert"), dtype="fp32")
    first = embed(backend, [np.array([2, 9, 3], np.int32)])
    before = first.copy()
    embed(backend, [np.array([2, 10, 3], np.int32)])
    assert type(first) is np.ndarray
    assert (first.dtype, first.flags.c_contiguous, first.flags.writeable) == (np.float32, True, True)
    assert (first == before).all()


def test_closed(tiny):
    """A closed backend refuses instead of crashing."""
    backend = load(tiny("bert"), dtype="fp32")
    backend.close()
    with pytest.raises(EmbedError, match="closed"):
        embed(backend, [np.array([2, 9, 3], np.int32)])


def test_openvino_on_a_gpu_is_refused(tiny):
    """Settings that exclude each other are refused: OpenVINO and a GPU, torch and int8."""
    with pytest.raises(LoadError, match="device"):
        load(tiny("bert"), device="cuda")
    with pytest.raises(LoadError, match="int8"):
        load(tiny("bert"), runtime="torch", dtype="int8")


@pytest.mark.parametrize("limit", [None, 512, 514, 60])
def test_padded_lengths_are_few(limit):
    """A padded length holds its input, is little longer, has positions, and is shared by many inputs."""
    lengths = range(1, (limit or 512) + 1)
    rounded = [round_up(length, limit) for length in lengths]
    assert all(length <= padded < length * 17 / 16 for length, padded in zip(lengths, rounded, strict=True))
    assert max(rounded) <= (limit or 512)
    assert len(set(rounded)) <= 16 * 7
    assert [round_up(padded, limit) for padded in rounded] == rounded
