"""The load generator against servers in the same process, and against the real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json

import numpy as np
import pytest

from bench.generator import FAILURES_MAX, ClosedLoop, decode_vectors, generate
from bench.run_spec import Endpoint, RunError, Workload
from bench.server import find_endpoint, gateway_runtime
from bench.texts import make_texts
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.spec import FakeSpec
from tests.server import serving

CONFIG = '[models.nonsense]\nbackend = "fake"\n'
LONG_S = 600.0
NOBODY = Endpoint("http://127.0.0.1:1/v1/embeddings", "nonsense", None)
YES = [b"HTTP/1.1 200 OK\r\nContent-", b"Length: 5\r\n\r\nhe", b"llo"]
CHUNKS = [
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n",
    b"3;x=y\r\nllo\r\n0\r",
    b"\n\r\n",
]
NO = [b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno"]


def driven(answer, clients=2, requests=8, seconds=LONG_S):
    """Send requests to a server; return the loop. An answer is in pieces; ``None`` closes the connection."""

    async def talk(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while (pieces := answer(int(await reader.readexactly(4)))) is not None:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    async def run():
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        loop = ClosedLoop(*server.sockets[0].getsockname())
        await loop.connect(clients)
        await loop.run([b"%4d" % number for number in range(requests)], seconds, 0.0)
        server.close()
        return loop

    return asyncio.run(run())


@pytest.mark.parametrize("pieces", [YES, CHUNKS])
def test_an_answer_comes_in_pieces(pieces):
    """Every request has one answer and a latency, wherever the answer is cut, with a length or in chunks."""
    loop = driven(lambda _: pieces)
    assert loop.bodies == dict.fromkeys(range(8), b"hello")
    assert len(loop.latencies_ms) == 8


def test_failures_are_counted_with_their_reasons():
    """A refusal and a closed connection fail their requests alone."""
    loop = driven(lambda number: {3: None, 5: NO}.get(number, YES), clients=1)
    assert sorted(loop.bodies) == [0, 1, 2, 4, 6, 7]
    assert loop.failed == 2
    assert loop.reasons == ["the connection was closed instead of an answer", "status 503: no"]


def test_a_server_that_always_fails_is_given_up():
    """Each client stops after a bounded number of failures in a row."""
    assert driven(lambda _: None, requests=900).failed == 2 * (FAILURES_MAX + 1)


def test_what_is_not_answered_in_time_has_failed():
    """When the time is up, requests in flight count as failed, and nothing more is sent."""
    loop = driven(lambda _: [b""], seconds=0.5)
    assert (loop.failed, loop.reasons) == (2, ["no answer in time"])


WRONG = ([[1.0, 2.0]], [[1.0, 2.0], [3.0]], [[1.0, 2.0], [0.0, 0.0]], ["AAAA", "AAA"], ["AADAfwAAgD8="] * 2)
"""One vector, another width, zeros, no base64, base64 of a NaN and a 1."""


@pytest.mark.parametrize("rows", [*WRONG, [[1.0], [1.0]]])
def test_anything_but_right_vectors_is_wrong(rows):
    """Not as many vectors as inputs, other widths, zeros, not a number or another order are no answer."""
    items = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
    right = rows == [[1.0], [1.0]]
    assert (decode_vectors(json.dumps({"data": items}).encode(), 2) is not None) == right
    assert decode_vectors(json.dumps({"data": items[::-1]}).encode(), 2) is None
    assert decode_vectors(b"{}", 2) is None


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
        np.testing.assert_allclose(
            rows, backend.run(backend.tokenize(texts), ("dense",))["dense"].values, atol=1e-6
        )


def test_a_server_that_cannot_be_used_is_an_error(endpoint):
    """A gateway says what runs its model; another model, or nobody at the port, is an error."""
    assert gateway_runtime(endpoint) == "fake, fp32"
    with pytest.raises(RunError, match="404"):
        find_endpoint(endpoint.url, "another", None)
    with pytest.raises(RunError, match="does not answer"):
        find_endpoint(*NOBODY[:3])
    with pytest.raises(RunError, match=r"refused|[Cc]onnect"):
        generate(spec_for(NOBODY))
