"""OpenAI's client with its defaults: what it tells of a failure, and what it tries again by itself."""

from __future__ import annotations

import logging
import re
import threading

import httpx
import numpy as np
import pytest

from tests.clients import needs
from tests.server import WAIT_S, eventually, serving

openai = needs.package("openai")

RETRYING = re.compile(r"Retrying request in (\S+) seconds")
PATIENCE = 30
"""Retries of a client that has to succeed on a machine of any speed; by default there are two."""


@pytest.fixture
def client(base_url):
    """Return a client with its defaults, but for the URL and a key that nobody looks at."""
    with openai.OpenAI(base_url=base_url, api_key="not-needed") as client:
        yield client


@pytest.fixture
def full(gateway, base_url):
    """Fill the queue of ``slow`` for seconds: one request is computed, and one of all that may wait waits."""
    body = {"model": "slow", "input": "x" * 198}
    filled = threading.Event()

    def occupy() -> None:
        while not filled.is_set():
            httpx.post(f"{base_url}/embeddings", json=body, timeout=None)

    def is_full() -> bool:
        metrics = httpx.get(f"{gateway.url}/metrics", timeout=WAIT_S).text
        return 'embeddings_gateway_queue_tokens{model="slow"} 200.0' in metrics

    threads = [threading.Thread(target=occupy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        eventually(is_full)
        filled.set()
        yield
    finally:
        filled.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def waits(caplog):
    """Return a function that lists for how many seconds the client has waited before it tried again."""
    caplog.set_level(logging.INFO, logger="openai")
    return lambda: [float(seconds) for seconds in RETRYING.findall(caplog.text)]


def test_an_unknown_model_is_not_found(client):
    """A model that is not served is NotFoundError, and never another model's vectors."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-3-large", input="text")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id


def test_a_text_that_is_too_long_is_named(client, requests):
    """A text that is longer than the model takes is BadRequestError that names it, and is not tried again."""
    with pytest.raises(openai.BadRequestError, match="256 tokens") as caught:
        client.embeddings.create(model="minilm", input=["short", "long " * 1000])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input[1]")
    assert requests("minilm", 400) == 1


def test_an_input_that_the_model_fails_on_is_not_tried_again(client, requests):
    """An input that the engine fails on is an InternalServerError that names it, and is sent once."""
    with pytest.raises(openai.InternalServerError) as caught:
        client.embeddings.create(model="failing", input=["good", "<raise>"])
    assert (caught.value.code, caught.value.param) == ("input_failed", "input[1]")
    assert requests("failing", 500) == 1


def test_an_overload_is_told(client, full):
    """A model whose queue is full is RateLimitError that says when to come back."""
    with pytest.raises(openai.RateLimitError) as caught:
        client.with_options(max_retries=0).embeddings.create(model="slow", input="text")
    assert (caught.value.code, caught.value.type) == ("overloaded", "overloaded_error")
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_an_overload_passes(client, full, requests, waits):
    """Under overload the client retries after Retry-After until it has its vector."""
    answer = client.with_options(max_retries=PATIENCE).embeddings.create(model="slow", input="text")
    assert len(answer.data[0].embedding) > 0
    assert requests("slow", 429) == len(waits()) >= 1
    assert all(seconds >= 1 and seconds.is_integer() for seconds in waits())  # its own would be fractions


def test_a_model_that_loads_is_waited_for(tmp_path, waits):
    """While its model is loading the client retries after Retry-After until it has its vector."""
    config = '[models.late]\nbackend = "fault"\nload_seconds = 3'
    with (
        serving(tmp_path, config, ready=False) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="not-needed", max_retries=PATIENCE) as client,
    ):
        answer = client.embeddings.create(model="late", input="text")
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-6)
    assert waits()
    assert set(waits()) == {5.0}


def test_a_client_that_gives_up_is_not_worked_for(client, requests):
    """After its own timeout the client raises APITimeoutError, and the gateway notes that it went away."""
    hasty = client.with_options(max_retries=0, timeout=0.3)

    def has_gone() -> bool:
        with pytest.raises(openai.APITimeoutError):
            hasty.embeddings.create(model="slow", input="x" * 190)
        return requests("slow", 499) > 0

    eventually(has_gone)  # on a machine that is busy it may give up before its request is read
