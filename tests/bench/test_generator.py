"""The load generator's process against the real gateway with the fake backend."""

from __future__ import annotations

from urllib.parse import urlsplit

import numpy as np
import pytest

from bench.generator import GeneratorError, generate, requests_of
from bench.plan import Plan
from bench.server import ServerError, address_of, free_port, stated
from bench.texts import make_texts
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.spec import FakeSpec
from tests.server import serving

CONFIG = '[models.nonsense]\nbackend = "fake"\n'
LONG_S = 600.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve the fake backend."""
    with serving(tmp_path_factory.mktemp("server"), CONFIG) as running:
        yield running


def plan_for(url, **others):
    """Plan 20 requests of 3 inputs over 4 connections, to be sent however long it takes."""
    parts = urlsplit(url)
    fields = {"kind": "short", "start": 5, "warm_up": 4, "requests": 20, "inputs": 3, "clients": 4}
    where = {"host": parts.hostname, "port": parts.port, "path": "/v1/embeddings", "model": "nonsense"}
    return Plan(**{**fields, **where, "seconds": LONG_S, "samples": 2, **others})


@pytest.mark.parametrize("base64", [True, False])
def test_all_requests_are_answered_with_the_vectors_of_their_texts(server, base64):
    """Every request is sent and answered; the samples are the backend's own vectors of the plan's texts."""
    plan = plan_for(server.url, base64=base64, pid=server.pid)
    load = generate(plan)
    assert load.answered == list(range(20))
    assert (load.failed, load.wrong, load.unit) == (0, 0, 60)
    assert len(load.latencies_ms) == 20
    assert load.cpu_s is not None
    backend = FakeBackend(FakeSpec())
    assert len(load.samples) == 2
    for request, rows in load.samples.items():
        numbers = plan.texts_of(request)
        texts = make_texts("short", numbers.start, len(numbers))
        np.testing.assert_allclose(rows, backend.embed(backend.tokenize(texts)), atol=1e-6)


def test_refusals_are_counted(server):
    """An unknown model is a failure of each request, with the server's reason."""
    load = generate(plan_for(server.url, model="another", warm_up=0))
    assert load.answered == []
    assert load.failed == 20
    assert "404" in load.errors[0]


def test_nobody_listens():
    """Without a server there is an error, not a measurement."""
    with pytest.raises(GeneratorError, match=r"refused|[Cc]onnect"):
        generate(plan_for(f"http://127.0.0.1:{free_port()}"))


def test_requests_are_whole_and_carry_the_plans_texts():
    """The warm-up's requests come first; a body's length is told."""
    plan = plan_for("http://127.0.0.1:1", base64=True)
    requests = requests_of(plan)
    assert len(requests) == plan.warm_up + plan.requests
    head, _, body = requests[plan.warm_up].partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert all(text.encode() in body for text in make_texts("short", plan.texts_of(0).start, 3))
    assert b'"encoding_format":"base64"' in body


def test_a_running_server_is_tried_out(server):
    """The encoding that a server knows is found out; what is no server, or no such model, is an error."""
    address = address_of(f"{server.url}/v1", "nonsense", server.pid)
    assert address.base64
    assert stated(address) == ("fake", "fp32")
    with pytest.raises(ServerError, match="404"):
        address_of(f"{server.url}/v1", "another", None)
    with pytest.raises(ServerError, match="does not answer"):
        address_of(f"http://127.0.0.1:{free_port()}", "nonsense", None)
    with pytest.raises(ServerError, match="http://HOST"):
        address_of("ftp://127.0.0.1", "nonsense", None)
