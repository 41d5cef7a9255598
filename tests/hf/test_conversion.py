"""What is kept of a conversion: when it is made, when it is thrown away, and what serves without it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from filelock import FileLock

pytest.importorskip("torch", reason="the hf extra is not installed")
pytest.importorskip("openvino", reason="the openvino extra is not installed")

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf import backend as hf_backend
from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.hf.conversion import conversion_cache, convert
from embeddings_gateway.backends.hf.conversion.conversion_cache import (
    Conversion,
    ConversionCache,
    ConversionFailed,
    ConversionOrder,
    ConversionRefused,
    ConversionSource,
    conversion_key,
    find_or_convert,
)
from embeddings_gateway.backends.hf.conversion.probes import SAME_RUNTIME, Agreement
from embeddings_gateway.backends.hf.conversion.trace import UnconvertibleError
from embeddings_gateway.backends.hf.files.layout import read_layout
from embeddings_gateway.backends.hf.files.weights import verify_weights
from embeddings_gateway.backends.hf.runtimes import load_runtime
from embeddings_gateway.backends.hf.runtimes.openvino_runtime import openvino
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine
from tests.processes import SECONDS_MAX, Watch, children_of, only_child_of
from tests.server import eventually, serving
from tests.vectors import embed, ids_of

TEXTS = ["a river", "old stone bridges while people talk", "weather"]
START = """
import json, sys
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
backend = HfBackend(HfSpec(**json.loads(sys.argv[1])))
print(json.dumps(backend.run(backend.tokenize(["a river"]), ("dense",))["dense"].values.tolist()))
"""

CONVERT = """
import os, subprocess
from embeddings_gateway.backends.hf.conversion.conversion_cache import COMMAND
converting = subprocess.Popen([*COMMAND, str(os.getpid())])
print(converting.pid, flush=True)
converting.wait()
"""


@pytest.fixture
def settings(own, tmp_path):
    """Return the settings of a model with a cache of its own."""
    cache = str(tmp_path / "cache")
    return {"path": str(own("bert")), "dtype": "fp32", "device": "cpu", "threads": 1, "cache_dir": cache}


@pytest.fixture(scope="module")
def ready(tiny):
    """Return the directory of a real conversion of the tiny BERT, which nobody may change, and its record."""
    spec = HfSpec(path=str(tiny("bert")), dtype="fp32", device="cpu", threads=1)
    conversion = find_or_convert(source_of(spec))
    assert isinstance(conversion, Conversion)
    return conversion


@pytest.fixture
def made(monkeypatch, ready):
    """Return the keys of the conversions that are made: each is a copy of the one that is ready."""
    keys = []

    def copied(order):
        assert order.key == ready.folder.name
        for name in ready.record.sums:
            shutil.copy(ready.folder / name, order.folder)
        keys.append(order.key)
        return ready.record

    monkeypatch.setattr(conversion_cache, "_run", copied)
    return keys


@pytest.fixture
def converted(settings, ready):
    """Return the settings of a model whose conversion is in its cache."""
    shutil.copytree(ready.folder, Path(settings["cache_dir"], "openvino", ready.folder.name))
    return settings


def source_of(spec):
    """Return what a conversion is made of."""
    model = read_layout(Path(spec.path))
    return ConversionSource(spec, spec.dtype, model, verify_weights(model, None))


def load(settings, **changed):
    """Load a model."""
    return HfBackend(HfSpec(**{**settings, **changed}))


def entry(settings) -> Path:
    """Return the directory of the only conversion that is kept."""
    (found,) = [path for path in Path(settings["cache_dir"], "openvino").iterdir() if path.is_dir()]
    return found


def vectors_of(backend):
    """Return the vectors of a few texts."""
    return embed(backend, ids_of(backend, TEXTS))


def test_made_once(settings, made):
    """A model is converted once, and from then on the conversion is taken."""
    first, second = load(settings), load(settings, threads=2, max_tokens=16)
    assert len(made) == 1
    assert lowest_cosine(vectors_of(first), vectors_of(second)) >= SAME_RUNTIME["fp32"]
    assert first.info.runtime == second.info.runtime == "openvino"


def test_made_anew_for_what_moves_a_vector(settings):
    """Another dtype, pooling or normalising, another configuration, other weights: another conversion."""

    def key_of(**changed):
        return conversion_key(*source_of(HfSpec(**{**settings, **changed})))

    plain = key_of()
    keys = [plain, key_of(dtype="bf16"), key_of(pooling="cls"), key_of(normalize=False)]
    config, weights_file = (Path(settings["path"], name) for name in ("config.json", "model.safetensors"))
    config.write_text(json.dumps({**json.loads(config.read_text()), "layer_norm_eps": 1e-6}))
    keys.append(key_of())
    *others, last = weights_file.read_bytes()
    weights_file.write_bytes(bytes([*others, last ^ 1]))
    keys.append(key_of())
    assert len(set(keys)) == len(keys)
    assert key_of(threads=2, max_tokens=16) == keys[-1]


def test_made_anew_for_another_tokenizer(settings):
    """Each file that a tokenizer may be made of is part of what a conversion depends on."""
    keys = [conversion_key(*source_of(HfSpec(**settings)))]
    for name in ("tokenizer_config.json", "added_tokens.json", "vocab.txt"):
        Path(settings["path"], name).write_text("{}")
        keys.append(conversion_key(*source_of(HfSpec(**settings))))
    assert len(set(keys)) == len(keys)


def test_what_is_known_of_the_tokenizer_is_kept(converted):
    """The tokenizer's settings and all notes are those of the conversion: nothing is compared at later starts."""
    record = entry(converted) / "record.json"
    plain, content = load(converted), json.loads(record.read_text())
    content["tokenizer"] = {"split_special_tokens": True, "notes": ["of the tokenizer"]}
    record.write_text(json.dumps({**content, "notes": ["of the files"]}))
    record.with_name("record.sha256").write_text(checksum.sha256(record))
    heeding = load(converted)
    assert plain.info.notes == ()
    assert heeding.info.notes == ("of the files", "of the tokenizer")
    assert len(plain.tokenize(["[SEP]"]).ids) < len(heeding.tokenize(["[SEP]"]).ids)
    assert plain.info.fingerprint != heeding.info.fingerprint


@pytest.mark.parametrize(
    ("file", "harm"),
    [("model.bin", "changed"), ("model.xml", "gone"), ("record.json", "cut"), ("record.json", "changed")],
)
def test_a_harmed_conversion_is_made_anew(settings, made, file, harm):
    """A cached file that has changed is never used."""
    expected = vectors_of(load(settings))
    assert len(made) == 1
    path = entry(settings) / file
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(
            whole[: len(whole) // 2] + (b"" if harm == "cut" else b"x" + whole[len(whole) // 2 + 1 :])
        )
    assert lowest_cosine(vectors_of(load(settings)), expected) >= SAME_RUNTIME["fp32"]
    assert len(made) == 2


def test_reference_vectors_are_compared(settings, made):
    """A conversion that no longer gives the vectors it gave when it was made is made anew."""
    load(settings)
    record = entry(settings) / "record.json"
    kept = json.loads(record.read_text())
    kept["reference_vectors"]["inputs"].reverse()
    record.write_text(json.dumps(kept))
    record.with_name("record.sha256").write_text(checksum.sha256(record))
    assert load(settings).info.runtime == "openvino"
    assert len(made) == 2


def test_a_conversion_of_anothers_is_not_made_anew(settings, made):
    """Whoever finds a conversion unusable takes the one that somebody else has made in its place."""
    load(settings)
    source = source_of(HfSpec(**settings))
    fresh = find_or_convert(source).record
    found = find_or_convert(source, replacing=msgspec.structs.replace(fresh, batch_tokens=1))
    assert found.record == fresh
    assert len(made) == 1
    find_or_convert(source, replacing=fresh)
    assert len(made) == 2


def test_the_budget_is_that_of_as_many_threads(converted, monkeypatch):
    """How many tokens make a batch is measured again where another number of threads computes it."""
    kept = load(converted).info.max_batch_tokens
    monkeypatch.setattr(hf_backend, "best_batch_tokens", lambda *_: kept + 1)
    assert load(converted).info.max_batch_tokens == kept
    assert load(converted, threads=2).info.max_batch_tokens == kept + 1


def test_what_may_pass_is_no_refusal(converted, made, monkeypatch):
    """Where memory is short while a conversion is loaded, it is neither thrown away nor refused."""

    def full(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(openvino.Core, "compile_model", full)
        with pytest.raises(MemoryError):
            load(converted)
    assert load(converted).info.runtime == "openvino"
    assert made == []


def test_a_conversion_is_of_private_files(settings, made):
    """The cache is in the configured directory, readable by its owner only."""
    load(settings)
    names = sorted(file.name for file in entry(settings).iterdir())
    assert names == ["model.bin", "model.xml", "record.json", "record.sha256"]
    assert entry(settings).parent.stat().st_mode & 0o077 == 0


def test_processes_at_once(settings):
    """Processes that start at the same time share one conversion, and leave nothing else behind."""
    command = [sys.executable, "-c", START, json.dumps({**settings, "runtime": "openvino"})]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    vectors = [np.array(json.loads(process.communicate()[0])) for process in running]
    assert all(lowest_cosine(each, vectors[0]) >= SAME_RUNTIME["fp32"] for each in vectors)
    names = sorted(path.suffix for path in entry(settings).parent.iterdir())
    assert names == ["", ".lock"]


def test_what_a_killed_process_left_is_cleared(settings, made):
    """Conversions that were never finished, of any model, are removed, unless a process is still writing them."""
    load(settings)
    folder = entry(settings)
    left, others, unfinished = (
        folder.with_name(f"{key}.left.tmp") for key in (folder.name, "other", "unfinished")
    )
    shutil.copytree(folder, others)
    shutil.copytree(folder, unfinished)
    shutil.move(folder, left)
    with FileLock(folder.with_name("unfinished.lock")):
        load(settings)
    assert [path.exists() for path in (folder, left, others, unfinished)] == [True, False, False, True]


def test_disagreement_is_refused(settings, monkeypatch):
    """A conversion that does not agree with torch is thrown away; torch serves, says why, and it stays so."""
    refusals, refused = [], ConversionRefused("the lowest cosine to fp32 on probe texts is 0.12345")
    monkeypatch.setattr(conversion_cache, "_run", lambda order: refusals.append(order.key) or refused)
    for _ in range(2):
        info = load(settings).info
        assert info.runtime == "torch"
        assert "0.12345" in info.notes[0]
    assert len(refusals) == 1
    assert not list(entry(settings).glob("model.*"))
    with pytest.raises(LoadError, match=r"0\.12345"):
        load(settings, runtime="openvino")


def test_what_bf16_is_too_coarse_for_is_served_in_fp32(settings, made, monkeypatch):
    """OpenVINO in fp32 serves what it cannot serve in bf16, and says why; torch comes last."""
    copied = conversion_cache._run
    refused = ConversionRefused("the lowest cosine to fp32 on probe texts is 0.12345")
    monkeypatch.setattr(
        conversion_cache, "_run", lambda order: refused if order.dtype == "bf16" else copied(order)
    )
    monkeypatch.setattr(hardware, "has_bf16", lambda: True)
    info = load(settings, dtype="auto").info
    assert (info.runtime, info.dtype) == ("openvino", "fp32")
    assert "0.12345" in info.notes[0]
    with pytest.raises(LoadError, match=r"0\.12345"):
        load(settings, dtype="bf16", runtime="openvino")


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_judgement(dtype):
    """What is not near enough, or not a number, falls short, with the figure."""
    assert Agreement(1.0, 1.0).shortfall(dtype) == ""
    assert "0.50000" in Agreement(0.5, 0.5).shortfall(dtype)
    assert "nan" in Agreement(float("nan"), float("nan")).shortfall(dtype)


def test_failure_is_not_kept(settings, made, monkeypatch):
    """An attempt that failed for once is made again at the next start."""
    with monkeypatch.context() as patch:
        patch.setattr(conversion_cache, "_run", lambda order: ConversionFailed("ended by SIGKILL"))
        assert "SIGKILL" in load(settings).info.notes[0]
    assert load(settings).info.runtime == "openvino"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_cache_that_cannot_be_written(settings, tmp_path):
    """If the cache cannot be written torch serves, and the note names the directory."""
    tmp_path.joinpath("cache").mkdir(mode=0o500)
    assert "cache" in load(settings).info.notes[0]


def test_cache_that_is_a_file(settings, tmp_path):
    """Where the cache is no directory torch serves, and the place is named."""
    tmp_path.joinpath("cache").write_text("")
    info = load(settings).info
    assert info.runtime == "torch"
    assert "cache_dir" in info.notes[0]


def test_a_process_that_dies_is_told_from_one_that_refuses(settings, monkeypatch):
    """The end of the converting process is named: its signal, or its status."""
    order = ConversionOrder(spec=HfSpec(path="/nowhere"), dtype="fp32", key="k", folder="/nowhere")
    for program, told in (
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("raise SystemExit(3)", "status 3"),
    ):
        monkeypatch.setattr(conversion_cache, "COMMAND", (sys.executable, "-c", program))
        outcome = conversion_cache._run(order)
        assert isinstance(outcome, ConversionFailed)
        assert told in outcome.reason


def test_converting_needs_no_access_to_the_hub(monkeypatch):
    """The converting process gets neither the hub's token nor proxies: it downloads nothing."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTPS_PROXY", "https_proxy", "HF_HOME"):
        monkeypatch.setenv(name, "S3CRET")
    program = "import os; raise SystemExit(sum(value == 'S3CRET' for value in os.environ.values()))"
    monkeypatch.setattr(conversion_cache, "COMMAND", (sys.executable, "-c", program))
    order = ConversionOrder(spec=HfSpec(path="/nowhere"), dtype="fp32", key="k", folder="/nowhere")
    assert "status 1" in conversion_cache._run(order).reason  # HF_HOME alone


def test_converting_ends_with_the_worker():
    """A process that converts does not outlive the worker that waits for it."""
    with subprocess.Popen(
        [sys.executable, "-c", CONVERT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:  # what it hands on as the order's source stays open after its end
        converting = Watch(int(worker.stdout.readline()))
        worker.kill()
        assert converting.ended()


def test_a_gateway_that_is_stopped_while_it_converts(settings, tmp_path):
    """Neither the converting process nor its temporary folder outlives the gateway."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    config = "\n".join(["[models.m]", 'backend = "hf"', *lines])
    cache = Path(settings["cache_dir"])
    with serving(tmp_path, config, ready=False) as server:
        eventually(lambda: list(cache.rglob("*.tmp")) and children_of(server.worker()))
        converting = Watch(only_child_of(server.worker()))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS_MAX) == 0
    assert converting.ended()
    assert not list(cache.rglob("*.tmp"))


def test_unservable_model_is_told_once(settings, monkeypatch):
    """What no runtime can serve is refused by the process that was to convert it, and not tried again."""

    def again(*_):
        raise AssertionError

    monkeypatch.setattr(load_runtime, "_load_torch", again)
    Path(settings["path"], "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(LoadError, match=r"model\.safetensors|cannot be loaded"):
        load(settings)


def test_a_conversion_that_cannot_be_written(ready, tmp_path):
    """If OpenVINO cannot write, as on a full disk, the error says so."""
    graph = openvino.Core().read_model(ready.folder / "model.xml")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file cannot be written"):
        convert.save(graph, tmp_path / "file" / "model.xml", half=True)


def test_what_lies_in_the_way_is_replaced(settings, made):
    """A file in the place of a conversion is replaced by one."""
    load(settings)
    folder = entry(settings)
    shutil.rmtree(folder)
    folder.write_text("")
    assert load(settings).info.runtime == "openvino"
    assert load(settings).info.runtime == "openvino"
    assert len(made) == 2


def test_cache_reads_only_what_is_whole(tmp_path):
    """A directory without a record, or with a foreign one, is no conversion."""
    cache = ConversionCache(str(tmp_path))
    cache.folder("a").mkdir(parents=True)
    assert cache.read("a") is None
    record = cache.folder("a") / "record.json"
    record.write_text('{"type": "other"}')
    record.with_name("record.sha256").write_text(checksum.sha256(record))
    assert cache.read("a") is None


@pytest.mark.parametrize(
    ("step", "ending"),
    [
        ("save", (OSError("no space left"), ConversionFailed)),
        ("trace", (UnconvertibleError("an operation is missing"), ConversionRefused)),
        ("_judge", (LoadError("OpenVINO cannot take it"), ConversionRefused)),
    ],
)
def test_only_what_lasts_is_refused(settings, tmp_path, monkeypatch, step, ending):
    """A full disk fails for once; what OpenVINO cannot do is refused; neither keeps torch from serving."""
    error, kind = ending

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(convert, step, broken)
    spec = HfSpec(**settings)
    name = conversion_key(*source_of(spec))
    outcome = convert.convert(ConversionOrder(spec=spec, dtype="fp32", key=name, folder=str(tmp_path)))
    assert isinstance(outcome, kind)
    assert str(error) in outcome.reason
