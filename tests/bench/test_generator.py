"""The load generator against servers in the same process, and against the real gateway."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest

from bench.generator import FAILURES_MAX, ClosedLoop, build_requests, cosines, decode_vectors, generate
from bench.run_spec import Endpoint, RunError, Workload
from bench.server import find_endpoint, gateway_runtime
from bench.texts import make_texts
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.spec import FakeSpec
from tests.bench.tiny_server import listening, plain
from tests.server import serving

CONFIG = '[models.nonsense]\nbackend = "fake"\n'
LONG_S = 600.0
REQUESTS = [b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n%d" % number for number in range(8)]
ROWS = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
NOBODY = "http://127.0.0.1:1/v1/embeddings"


def driven(answer, clients=2, requests=REQUESTS, seconds=LONG_S):
    """Send the requests to a server that answers so; return the loop."""

    async def run():
        async with listening(answer) as port:
            loop = ClosedLoop("127.0.0.1", port)
            await loop.connect(clients)
            await loop.run(requests, seconds, 0.0)
            return loop

    return asyncio.run(run())


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-", b"Length: 5\r\n\r\nhe", b"llo"],
        [
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n",
            b"3;x=y\r\nllo\r\n0\r",
            b"\n\r\n",
        ],
    ],
)
def test_an_answer_comes_in_pieces(pieces):
    """Every request has one answer and a latency, wherever the answer is cut, with a length or in chunks."""
    loop = driven(lambda _: pieces)
    assert loop.bodies == dict.fromkeys(range(8), b"hello")
    assert len(loop.latencies_ms) == 8


def test_failures_are_counted_with_their_reasons():
    """A refusal and a closed connection fail their requests alone."""
    answers = {3: None, 5: plain(b"no", 503)}
    loop = driven(lambda number: answers.get(number, plain(b"yes")), clients=1)
    assert sorted(loop.bodies) == [0, 1, 2, 4, 6, 7]
    assert loop.failed == 2
    assert loop.reasons == ["the connection was closed instead of an answer", "status 503: no"]


def test_a_server_that_always_fails_is_given_up():
    """Each client stops after a bounded number of failures in a row."""
    assert driven(lambda _: None, requests=REQUESTS * 100).failed == 2 * (FAILURES_MAX + 1)


def test_what_is_not_answered_in_time_has_failed():
    """When the time is up, requests in flight count as failed, and nothing more is sent."""
    loop = driven(lambda _: [b""], seconds=0.5)
    assert (loop.failed, loop.reasons) == (2, ["no answer in time"])


def body(rows, **changes):
    """Return an answer with these vectors, as bytes."""
    items = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    return json.dumps({"object": "list", "data": items, "model": "m", **changes}).encode()


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{}",
        body([]),
        body([[1.0, 2.0]]),
        body([[1.0, 2.0], [3.0]]),
        body([[1.0, 2.0], [0.0, 0.0]]),
        body(["AAAA", "AAA"]),
        body([], data=[{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]),
        body([base64.b64encode(np.array([np.nan, 1], dtype=np.float32).tobytes()).decode()] * 2),
    ],
)
def test_anything_but_right_vectors_is_wrong(wrong):
    """Not as many vectors as inputs, another order, other widths, zeros or not a number are no answer."""
    assert decode_vectors(wrong, 2) is None


def test_cosines_compare_every_row_with_every_row():
    """Rows need not have unit length."""
    found = cosines(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(found, [[1.0, np.sqrt(0.5)], [0.0, np.sqrt(0.5)]])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """Serve the fake backend."""
    with serving(tmp_path_factory.mktemp("server"), CONFIG) as running:
        yield find_endpoint(f"{running.url}/v1/embeddings", "nonsense", running.pid)


def spec_for(endpoint):
    """Return a run of 20 requests of 3 inputs over 4 connections, however long it takes."""
    return Workload(4, 3, "short").spec(endpoint, 5, LONG_S, 2)._replace(requests=20)


@pytest.mark.parametrize("encoded", [True, False])
def test_all_requests_are_answered_with_the_vectors_of_their_texts(endpoint, encoded):
    """Every request is answered, in either encoding; the samples are the backend's own vectors."""
    assert endpoint.base64
    spec = spec_for(endpoint._replace(base64=encoded))
    result = generate(spec)
    assert result.answered == list(range(20))
    assert (result.turn.inputs, result.turn.failed, result.turn.wrong, result.unit_vectors) == (60, 0, 0, 60)
    assert 0 <= result.root_cpu_s <= result.turn.cpu_s
    backend = FakeBackend(FakeSpec())
    assert len(result.samples) == 2
    for request, rows in result.samples.items():
        texts = make_texts("short", spec.text_numbers([request]))
        np.testing.assert_allclose(rows, backend.embed(backend.tokenize(texts)), atol=1e-6)


def test_requests_carry_their_texts():
    """The warm-up's requests come first; a request's length and encoding are stated."""
    spec = spec_for(Endpoint(NOBODY, "m", None, base64=True))
    requests = build_requests(spec, spec.endpoint)
    assert len(requests) == spec.warm_up + 20
    head, _, content = requests[spec.warm_up].partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(content) in head
    assert json.loads(content) == {
        "model": "m",
        "encoding_format": "base64",
        "input": make_texts("short", spec.text_numbers([0])),
    }


def test_a_server_that_cannot_be_used_is_an_error(endpoint):
    """A gateway says what runs its model; another model, or nobody at the port, is an error."""
    assert gateway_runtime(endpoint) == "fake, fp32"
    with pytest.raises(RunError, match="404"):
        find_endpoint(endpoint.url, "another", None)
    with pytest.raises(RunError, match="does not answer"):
        find_endpoint(NOBODY, "nonsense", None)
    with pytest.raises(RunError, match=r"refused|[Cc]onnect"):
        generate(spec_for(Endpoint(NOBODY, "nonsense", None)))
