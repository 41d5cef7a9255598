"""int8: only when asked for, and only where it is near enough."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")
pytest.importorskip("openvino", reason="the openvino extra is not installed")
pytest.importorskip("nncf", reason="the int8 extra is not installed")

from backends.base import LoadError
from backends.hf.backend import HfBackend
from backends.hf.conversion.texts import CALIBRATION, PROBES
from backends.spec import HfSpec
from tests.cosine import lowest_cosine, unit
from tests.hf.torch_settings import TORCH

SETTINGS = {"device": "cpu", "dtype": "int8", "threads": 1}


def load(directory, **settings):
    """Load a directory in int8."""
    return HfBackend(HfSpec(path=str(directory), **{**SETTINGS, **settings}))


def test_int8(tiny, capfd):
    """The vectors are near those of fp32, the same in any company, and nothing is printed on the way."""
    plain = HfBackend(HfSpec(path=str(tiny("bert")), **TORCH))
    capfd.readouterr()
    backend = load(tiny("bert"))
    assert capfd.readouterr() == ("", "")
    inputs = backend.tokenize(PROBES)
    inputs = [ids for ids in inputs if len(ids) <= backend.info.max_tokens]
    together = backend.embed(inputs)
    alone = np.concatenate([backend.embed([ids]) for ids in inputs])
    assert (backend.info.dtype, backend.info.runtime) == ("int8", "openvino")
    assert (unit(together) * unit(plain.embed(inputs))).sum(1).mean() >= 0.995
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


def test_calibration_that_cannot_be_read(tiny, tmp_path):
    """A file of texts that is not there is named."""
    with pytest.raises(LoadError, match=r"texts\.txt"):
        load(tiny("bert"), calibration=str(tmp_path / "texts.txt"))


def test_texts():
    """What a conversion is judged by is not what it is calibrated with."""
    assert len(set(CALIBRATION)) == len(CALIBRATION) >= 200
    assert len(set(PROBES)) == len(PROBES) >= 60
    assert not set(PROBES) & set(CALIBRATION)
