"""The rows of the README's error table that a client can bring about, over real HTTP.

What fails with a worker or a model is caused in ``tests/faults``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.server import eventually, serving

GOOD = {"model": "fake", "input": "text"}


def post(server, body, **headers):
    """Send a body as it is."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **headers}
    return httpx.post(f"{server.url}/v1/embeddings", content=content, headers=headers, timeout=60)


def assert_error(answer, status, kind="invalid_request_error", code=None, param=None):
    """Check the whole error object, all four keys of it, and the headers of every answer."""
    error = answer.json()["error"]
    received = (answer.status_code, error["type"], error["code"], error["param"])
    assert received == (status, kind, code, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert answer.headers["x-request-id"]
    assert answer.headers["openai-processing-ms"].isdigit()


def test_what_is_not_json_is_400_invalid_json(server):
    """A body that is not one JSON document in UTF-8 is refused."""
    assert_error(post(server, b'{"model": "fake", "input": "a"} trailing'), 400, code="invalid_json")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a" * 1_000_001}, "input"),
        ({"dimensions": 4}, "dimensions"),
    ],
)
def test_a_wrong_field_is_400_and_named(server, change, param):
    """A field that is missing, of the wrong type or out of range is named."""
    assert_error(post(server, GOOD | change), 400, param=param)


def test_optional_fields_may_be_null_and_unknown_ones_are_ignored(server):
    """Clients send nulls and fields of their own; both do no harm."""
    optional = ("encoding_format", "dimensions", "user", "truncate", "input_type", "partial")
    assert post(server, GOOD | dict.fromkeys(optional) | {"drop_params": 1}).status_code == 200


def test_a_too_long_input_is_named(server):
    """An input longer than the model takes is an error that names it, not a cut."""
    answer = post(server, GOOD | {"input": ["a", "b" * 600]})
    assert_error(answer, 400, code="context_length_exceeded", param="input[1]")


def test_too_many_tokens_in_a_request(server):
    """A request of more than 300,000 tokens is refused as a whole; so is a flat array of over 8192 ids."""
    answer = post(server, GOOD | {"input": ["b" * 500] * 700})
    assert_error(answer, 400, code="max_tokens_per_request", param="input")
    answer = post(server, GOOD | {"input": [1] * 8193})
    assert_error(answer, 400, code="max_tokens_per_request", param="input")


def test_token_ids_that_the_policy_refuses(server):
    """A model whose policy is to reject token ids says how to send texts."""
    answer = post(server, GOOD | {"input": [1, 2, 3]})
    assert_error(answer, 400, code="invalid_token_ids", param="input")
    assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


@pytest.mark.parametrize("ids", [[[5], [258]], [[5], [-1]], [[5], [10**12]]])
def test_token_ids_outside_the_vocabulary(server, ids):
    """An id that the vocabulary does not have is refused, with its input."""
    answer = post(server, {"model": "fake-native", "input": ids})
    assert_error(answer, 400, code="invalid_token_ids", param="input[1]")


def test_unknown_names_and_wrong_methods(server):
    """Unknown models and paths are 404, wrong methods 405; none is served by something else."""
    assert_error(post(server, GOOD | {"model": "other"}), 404, code="model_not_found", param="model")
    assert_error(httpx.get(f"{server.url}/v1/models/a/b"), 404, code="model_not_found", param="model")
    assert_error(httpx.get(f"{server.url}/v2/embeddings"), 404)
    assert_error(httpx.get(f"{server.url}/v1/embeddings"), 405)
    assert_error(httpx.delete(f"{server.url}/v1/models"), 405)


def test_a_pinned_space(server):
    """A client that expects another embedding space gets 412, one that expects this one gets vectors."""
    space = post(server, GOOD).headers["x-embedding-space"]
    assert post(server, GOOD, **{"x-expected-space": space}).status_code == 200
    answer = post(server, GOOD, **{"x-expected-space": "0" * 16})
    assert_error(answer, 412, code="embedding_space_mismatch", param="model")


def test_a_body_that_is_too_large(server):
    """A body over the limit is refused, whether it says its length or not."""
    large = b" " * ((32 << 20) + 1)
    assert_error(post(server, large), 413, code="request_too_large")
    headers = {"content-type": "application/json"}
    chunks = (b" " * (1 << 20) for _ in range(33))
    answer = httpx.post(f"{server.url}/v1/embeddings", content=chunks, headers=headers, timeout=60)
    assert_error(answer, 413, code="request_too_large")


def test_a_body_of_another_type(server):
    """Only plain application/json is read."""
    assert_error(post(server, GOOD, **{"content-type": "text/plain"}), 415)
    assert_error(post(server, GOOD, **{"content-encoding": "gzip"}), 415)
    assert post(server, GOOD, **{"content-type": "application/json; charset=utf-8"}).status_code == 200


def test_a_sane_request_id_is_kept(server):
    """The client's request id comes back if it is sane; else there is a new one."""
    assert post(server, GOOD, **{"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert post(server, GOOD, **{"x-request-id": "a b"}).headers["x-request-id"].startswith("req_")


SLOW = """
[server]
request_timeout_s = 0.5

[models.fake]
backend = "fake"
max_queue_tokens = 1000
"""


@pytest.fixture
def stopped(tmp_path):
    """Return a gateway with short limits, whose only worker has been stopped."""
    with serving(tmp_path, SLOW) as running:
        worker = running.worker()
        os.kill(worker, signal.SIGSTOP)
        yield running
        os.kill(worker, signal.SIGCONT)


def test_a_body_that_does_not_arrive(tmp_path):
    """A body that is not received in time is 408."""
    with serving(tmp_path, SLOW.replace("request", "body")) as server:
        where = urllib.parse.urlsplit(server.url)
        with socket.create_connection((where.hostname, where.port), timeout=60) as link:
            link.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            received = link.makefile("rb").readline()
    assert received.split()[1] == b"408"


def test_a_request_that_is_not_done_in_time(stopped):
    """A request whose model does not move ends with 504 at its deadline, and readiness says why."""
    assert_error(post(stopped, GOOD), 504, "server_error", code="timeout")
    answer = httpx.get(f"{stopped.url}/readyz", timeout=60)
    assert answer.status_code == 503
    assert "do not answer" in answer.json()["models"]["fake"]["reason"]
    assert httpx.get(f"{stopped.url}/livez").status_code == 200


SECRET = 'It\'s my "secret" `text`'


@pytest.mark.parametrize(
    "field", ["encoding_format", "truncate", "input_type", "dimensions", "partial", SECRET]
)
def test_an_error_does_not_repeat_what_was_sent(strict, field):
    """A text in the wrong place, or as a field's name, is not in the answer."""
    answer = post(strict, GOOD | {field: SECRET})
    assert answer.status_code == 400
    assert "secret" not in answer.text


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """Return a gateway that refuses fields that it does not know."""
    config = '[server]\nstrict = true\n[models.fake]\nbackend = "fake"\n'
    with serving(tmp_path_factory.mktemp("strict"), config) as running:
        yield running


def test_a_client_that_leaves_in_the_middle_of_its_body(tmp_path):
    """It is counted as a client that went away, not as an error of the gateway."""
    with serving(tmp_path, SLOW) as server:
        where = urllib.parse.urlsplit(server.url)
        with socket.create_connection((where.hostname, where.port), timeout=60) as link:
            link.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 100\r\n\r\n{"
            )
        gone = 'embeddings_gateway_requests_total{model="",status="499"} 1.0'
        eventually(lambda: gone in httpx.get(f"{server.url}/metrics").text)


def test_what_was_accepted_is_answered_when_the_server_ends(tmp_path):
    """A request that cannot be finished before the server ends gets an error of the usual form."""
    body = json.dumps(GOOD).encode()
    with serving(tmp_path, SLOW.replace("request_timeout_s = 0.5", "shutdown_timeout_s = 1")) as server:
        os.kill(server.worker(), signal.SIGSTOP)
        where = urllib.parse.urlsplit(server.url)
        with socket.create_connection((where.hostname, where.port), timeout=60) as link:
            link.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)
            )
            answer = link.makefile("rb")
            assert answer.readline().split()[1] == b"100"  # so it is accepted
            link.sendall(body)
            os.kill(server.pid, signal.SIGTERM)
            received = answer.read().partition(b"HTTP/1.1 ")[2]
    assert received.startswith(b"503")
    assert b"retry-after" in received
    assert b'"code":"model_unavailable"' in received


NARROW = """
[models.fake]
backend = "fake"
token_ids = "native"
max_queue_tokens = 1000
"""


QUEUED = 'queue_tokens{model="fake"} 500.0'


def test_a_full_queue(tmp_path):
    """What the queue cannot take as a whole is 429 with the seconds after which to try again."""
    ids = [1] * 498  # 500 with the special tokens, so that two of them are in the worker and one waits
    with serving(tmp_path, NARROW) as server, ThreadPoolExecutor() as pool:
        worker = server.worker()
        os.kill(worker, signal.SIGSTOP)
        waiting = []
        for received in (
            'batch_inputs_count{model="fake"} 1.0',
            'batch_inputs_count{model="fake"} 2.0',
            QUEUED,
        ):
            waiting.append(pool.submit(post, server, GOOD | {"input": ids}))
            eventually(lambda received=received: received in httpx.get(f"{server.url}/metrics").text)
        answer = post(server, GOOD | {"input": [ids, ids]})
        assert_error(answer, 429, "overloaded_error", code="overloaded")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        os.kill(worker, signal.SIGCONT)
        assert [request.result().status_code for request in waiting] == [200] * 3


TWO = '[models.fake]\nbackend = "fake"\nreplicas = 2\n'


def test_a_replica_that_has_stopped(tmp_path):
    """While one of two replicas does not move the gateway is not ready, each time it is asked."""
    with serving(tmp_path, TWO) as server:
        eventually(lambda: 'workers_ready{model="fake"} 2.0' in httpx.get(f"{server.url}/metrics").text)
        worker = server.worker(1)
        os.kill(worker, signal.SIGSTOP)
        assert [httpx.get(f"{server.url}/readyz", timeout=60).status_code for _ in range(2)] == [503] * 2
        os.kill(worker, signal.SIGCONT)
        eventually(lambda: httpx.get(f"{server.url}/readyz").status_code == 200)
