"""int8: only when asked for, and only where it is near enough."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")
pytest.importorskip("openvino", reason="the openvino extra is not installed")
pytest.importorskip("nncf", reason="the int8 extra is not installed")

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.hf.conversion.conversion_cache import CONVERTING
from embeddings_gateway.backends.hf.conversion.probes import (
    CALIBRATION,
    CALIBRATION_MAX,
    PROBES,
    calibration_texts,
)
from embeddings_gateway.backends.spec import HfSpec
from tests.cosine import lowest_cosine, unit
from tests.hf.torch_settings import TORCH
from tests.vectors import embed, ids_of

SETTINGS = {"device": "cpu", "dtype": "int8", "threads": 1}


def load(directory, **settings):
    """Load a directory in int8."""
    return HfBackend(HfSpec(path=str(directory), **{**SETTINGS, **settings}))


def test_int8(tiny, capfd):
    """The vectors are near those of fp32 and the same in any batch; nothing is printed."""
    plain = HfBackend(HfSpec(path=str(tiny("bert")), **TORCH))
    capfd.readouterr()
    backend = load(tiny("bert"))
    out, err = capfd.readouterr()
    assert out == ""
    assert err in ("", CONVERTING)  # another test may have converted it
    inputs = ids_of(backend, PROBES)
    inputs = [ids for ids in inputs if len(ids) <= backend.info.max_tokens]
    together = embed(backend, inputs)
    alone = np.concatenate([embed(backend, [ids]) for ids in inputs])
    assert (backend.info.dtype, backend.info.runtime) == ("int8", "openvino")
    assert (unit(together) * unit(embed(plain, inputs))).sum(1).mean() >= 0.995
    assert lowest_cosine(together, alone) >= 0.999
    assert backend.info.fingerprint != plain.info.fingerprint


def test_int8_that_falls_short_is_refused(tiny, tmp_path):
    """Calibrated with texts that tell nothing of others, the model is refused with the figure."""
    texts = tmp_path / "texts.txt"
    texts.write_text("a\n")
    for _ in range(2):  # the second time from what is kept
        with pytest.raises(LoadError, match=r"mean cosine .* is 0\.\d+"):
            load(tiny("bert"), calibration=str(texts), cache_dir=str(tmp_path))
    (record,) = tmp_path.glob("openvino/*/record.json")
    assert json.loads(record.read_text())["type"] == "refused"


@pytest.mark.parametrize("content", [None, b"", b" \n\n", b"\xff\xfe\x00"])
def test_calibration_that_is_no_texts(tmp_path, content):
    """A file of texts that is not there, is empty or is no text is named."""
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadError, match=r"calibration .*texts\.txt"):
        calibration_texts(str(path))


@pytest.mark.parametrize("content", [None, b""])
def test_a_model_with_calibration_that_is_no_texts(tiny, tmp_path, content):
    """A model with such a file does not load, whether the worker finds out or the converting process."""
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadError, match=r"calibration .*texts\.txt"):
        load(tiny("bert"), calibration=str(path))


def test_calibration_is_bounded(tmp_path):
    """Of a large file some texts are taken, from its beginning to its end; of a small one all."""
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"text {number}\n" for number in range(100_000)))
    texts = calibration_texts(str(path))
    assert CALIBRATION_MAX // 2 < len(texts) <= CALIBRATION_MAX
    assert texts[0] == "text 0"
    assert int(texts[-1].split()[1]) > 99_000
    path.write_text("one\n\ntwo\n")
    assert calibration_texts(str(path)) == ["one", "two"]


def test_other_calibration_is_another_space(tiny, tmp_path):
    """Vectors of one model calibrated in two ways are not to be compared: their fingerprints differ."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(CALIBRATION[::2]))
    ours, others = load(tiny("bert")).info, load(tiny("bert"), calibration=str(path)).info
    assert ours.fingerprint != others.fingerprint


def test_texts():
    """What a conversion is judged by is not what it is calibrated with."""
    assert len(set(CALIBRATION)) == len(CALIBRATION) >= 200
    assert len(set(PROBES)) == len(PROBES) >= 60
    assert not set(PROBES) & set(CALIBRATION)
