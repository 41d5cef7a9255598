"""LiteLLM's proxy in front of the gateway, asked by OpenAI's client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.cosine import lowest_cosine
from tests.server import WAIT_S, eventually
from tests.texts import varied_texts

needs.package("litellm.proxy.proxy_server")
openai = needs.package("openai")

KEY = "sk-of-the-proxy"

CONFIG = """
model_list:
  - model_name: texts
    litellm_params: {{model: openai/minilm, api_base: "{base_url}", api_key: not-needed}}
  - model_name: cutting
    litellm_params: {{model: openai/minilm-cutting, api_base: "{base_url}", api_key: not-needed}}
general_settings:
  master_key: {key}
"""


@pytest.fixture(scope="module")
def proxy(base_url, tmp_path_factory):
    """Return the URL of a proxy whose models are the gateway's."""
    folder = tmp_path_factory.mktemp("proxy")
    config, log = folder / "config.yaml", folder / "log"
    config.write_text(CONFIG.format(base_url=base_url, key=KEY))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                Path(sys.executable).parent / "litellm",
                "--config",
                config,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"},
            cwd=folder,
            stdout=out,
            stderr=out,
        )
    try:
        eventually(lambda: process.poll() is not None or _ready(port))
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(WAIT_S)


def _ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/readiness").is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def client(proxy):
    """Return OpenAI's client with its defaults, with the proxy's URL and key."""
    with openai.OpenAI(base_url=proxy, api_key=KEY) as client:
        yield client


def test_many_texts_have_their_own_vectors_in_order(client, direct):
    """What the proxy hands on are the vectors that the texts have without a gateway, and their usage."""
    texts = varied_texts(300)
    answer = client.embeddings.create(model="cutting", input=texts)
    assert [item.index for item in answer.data] == list(range(300))
    assert lowest_cosine(np.array([item.embedding for item in answer.data]), direct(texts)) >= EXACT
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 300


def test_mistakes_keep_their_class(client):
    """The proxy hands the gateway's refusals on as what they are."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="texts", input=["word " * 300])
    assert "256 tokens" in str(caught.value)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="texts", input=[""])
