"""Requests that no client should send: each is answered in time, as the client's fault, and harms nobody."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.connection import SMALL, START, Connection, sized
from tests.faults.answers import CLOSE, WAIT_S, ask, assert_serves, assert_sound, memory_bounded
from tests.server import serving

CONFIG = """
[models.fake]
backend = "fake"
token_ids = "reject"

[models.native]
backend = "fake"
token_ids = "native"
"""
FEW, MANY = 100, 10_000
DEEP = 200_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return a gateway with the fake backend."""
    with serving(tmp_path_factory.mktemp("server"), CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """Return a gateway that does not wait long for what is cut."""
    bounds = "[server]\nhead_timeout_s = 1\nbody_timeout_s = 1\n"
    with serving(tmp_path_factory.mktemp("impatient"), bounds + CONFIG) as running:
        yield running


@pytest.fixture
def thousands(server, full_size):
    """Return a function that tries something with whatever a strategy makes of it."""

    def try_all(attempt, strategy):
        many = MANY if full_size else FEW
        try_one = settings(max_examples=many, deadline=None, suppress_health_check=list(HealthCheck))(
            given(strategy)(attempt)
        )
        if not full_size:
            try_one()
            return
        for _ in range(FEW):  # whatever is only made once is there before memory is looked at
            attempt(b"{}")
            assert_serves(server.url)
        with memory_bounded(server.pid):
            try_one()

    return try_all


def body(**fields):
    """Return a body whose fields are given as JSON text, beside a good model and a good input."""
    plain = {"model": '"fake"', "input": '"a"'} | fields
    return ("{" + ",".join(f'"{key}":{value}' for key, value in plain.items()) + "}").encode()


def ids(*values):
    """Return a body with token ids, given as JSON text, for a model that takes them."""
    return body(model='"native"', input=f"[[1],[{','.join(map(str, values))}]]")


GOOD = body()
BODIES = {
    "nothing": b"",
    "not UTF-8": body().replace(b'"a"', b'"\xff"'),
    "not UTF-8 in a field that is ignored": body(x='"?"').replace(b"?", b"\xc3"),
    "surrogate": body(input=r'"\ud800"'),
    "surrogate in the model": body(model=r'"\udfff"'),
    "surrogate in the user": body(user=r'"\ud800\ud800"'),
    "surrogate in a name": GOOD[:-1] + rb',"\ud800":1}',
    "surrogate as bytes": body().replace(b'"a"', b'"\xed\xa0\x80"'),
    "NUL as a byte": body().replace(b'"a"', b'"\x00"'),
    "deep arrays": body(input="[" * DEEP + "]" * DEEP),
    "deep arrays without end": body(input="[" * DEEP),
    "deep objects in a field that is ignored": body(x='{"a":' * DEEP + "1" + "}" * DEEP),
    "NaN": body(input="[NaN]"),
    "Infinity": body(dimensions="-Infinity"),
    "1e999": body(dimensions="1e999"),
    "1e999 as an id": ids("1e999"),
    "400 digits": body(dimensions="9" * 400),
    "400 digits as an id": ids("9" * 400),
    "minus 400 digits as an id": ids("-" + "9" * 400),
    "booleans as ids": ids("true"),
    "null as an id": ids("null"),
    "-1": ids(-1),
    "outside the vocabulary": ids(258),
    "2**31": ids(2**31),
    "2**63": ids(2**63),
    "2**64": ids(2**64),
    "-2**63 - 1": ids(-(2**63) - 1),
    "8 MB": body(input=json.dumps("a" * 8_000_000)),
    "8 MB of escapes": body(input='"' + r"\u0041" * 1_300_000 + '"'),
    "8 MB in a name": GOOD[:-1] + b',"' + b"a" * 8_000_000 + b'":[}',
    "a million empty arrays": body(input="[" + ",".join(["[]"] * 1_000_000) + "]"),
    "a million commas": b'{"input":[' + b"," * 1_000_000,
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "trailing bytes": GOOD + b"\n\x00",
    "two documents": GOOD + GOOD,
    "gzip": gzip.compress(GOOD),
}


@pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES.keys())
def test_bodies(server, sent):
    """A body that is wrong is a 400, and the next request is answered rightly."""
    answers = ask(server.url, CLOSE + sized(sent))
    assert_sound(answers)
    assert [answer.status for answer in answers] == [400]
    assert_serves(server.url)


TAKEN = {
    "NUL as an escape": body(input=r'"\u0000"'),
    "a pair of surrogates": body(input=r'"\ud83d\ude42"'),
    "a name twice": GOOD[:-1] + b',"input":"b"}',
    "blanks around": b" \r\n\t" + GOOD + b" \r\n\t",
    "400 digits in a field that is ignored": body(x="9" * 400),
    "1e999 in a field that is ignored": body(x="1e999"),
    "255": ids(255),
}


@pytest.mark.parametrize("sent", TAKEN.values(), ids=TAKEN.keys())
def test_odd_bodies(server, sent):
    """A body that is odd, but JSON, is taken."""
    answers = ask(server.url, CLOSE + sized(sent))
    assert [answer.status for answer in answers] == [200]
    assert_serves(server.url)


CHUNKED = CLOSE + b"transfer-encoding: chunked\r\n\r\n"
WHOLE = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMALL), SMALL)
HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n"
UP = b"GET /docs/assets/UP HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
BENT = {
    "gzip, and told so": (415, CLOSE + b"content-encoding: gzip\r\n" + sized(gzip.compress(SMALL))),
    "a chunk's size that is none": (400, CHUNKED + b"-1\r\n" + WHOLE),
    "a chunk's size with a prefix": (400, CHUNKED + b"0x5\r\n" + WHOLE),
    "a chunk's size of 17 digits": (400, CHUNKED + b"f" * 17 + b"\r\n" + WHOLE),
    "a chunk's size with blanks": (400, CHUNKED + b" 22 \r\n" + WHOLE),
    "a chunk that is longer": (400, CHUNKED + b"3\r\nabcdef\r\n" + WHOLE),
    "200,000 chunks": (200, CHUNKED + b"1\r\n \r\n" * 200_000 + WHOLE),
    "chunked twice": (400, CLOSE + b"transfer-encoding: chunked, chunked\r\n\r\n" + WHOLE),
    "chunked, then something": (400, CLOSE + b"transfer-encoding: chunked, identity\r\n\r\n" + WHOLE),
    "gzip, then chunked": (400, CLOSE + b"transfer-encoding: gzip, chunked\r\n\r\n" + WHOLE),
    "chunked in two headers": (400, CLOSE + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n" + WHOLE),
    "a blank before the colon": (400, CLOSE + b"transfer-encoding : chunked\r\n\r\n" + WHOLE),
    "a header that goes on": (400, CLOSE + b"x: a\r\n b\r\n" + sized(SMALL)),
    "a header without a name": (400, CLOSE + b": a\r\n" + sized(SMALL)),
    "a header without a colon": (400, CLOSE + b"header\r\n" + sized(SMALL)),
    "NUL in a header": (400, CLOSE + b"x: \x00\r\n" + sized(SMALL)),
    "NUL in a header's name": (400, CLOSE + b"x\x00: a\r\n" + sized(SMALL)),
    "CR in a header": (400, CLOSE + b"x: a\rb\r\n" + sized(SMALL)),
    "bytes in a header": (
        412,
        CLOSE + b"x-request-id: \xff\xfe\r\nx-expected-space: \xff\r\n" + sized(SMALL),
    ),
    "lines that end with LF": (400, (CLOSE + sized(SMALL)).replace(b"\r\n", b"\n")),
    "a length twice": (400, CLOSE + b"content-length: %d\r\n" % len(SMALL) + sized(SMALL)),
    "two lengths": (400, CLOSE + b"content-length: 5\r\n" + sized(SMALL)),
    "a list of lengths": (400, CLOSE + b"content-length: 5, 5\r\n\r\n" + SMALL),
    "a length with a sign": (400, CLOSE + b"content-length: +34\r\n\r\n" + SMALL),
    "a length in hex": (400, CLOSE + b"content-length: 0x22\r\n\r\n" + SMALL),
    "a length of 30 digits": (400, CLOSE + b"content-length: " + b"9" * 30 + b"\r\n\r\n" + SMALL),
    "a length of 19 digits": (413, CLOSE + b"content-length: " + b"9" * 19 + b"\r\n\r\n" + SMALL),
    "no length": (400, CLOSE + b"\r\n" + SMALL),
    "a method that is none": (400, CLOSE.replace(b"POST", b"TOAST") + sized(SMALL)),
    "a method in small letters": (400, CLOSE.replace(b"POST", b"post") + sized(SMALL)),
    "a path of NUL": (404, CLOSE.replace(b"/v1/embeddings", b"/%00") + sized(SMALL)),
    "a path that is not UTF-8": (404, CLOSE.replace(b"/v1/embeddings", b"/%ff%fe") + sized(SMALL)),
    "a path of bytes": (400, CLOSE.replace(b"/v1/embeddings", b"/\xff\xfe") + sized(SMALL)),
    "a path that goes up": (404, UP.replace(b"UP", b"../../../../../../../../etc/passwd")),
    "a path that goes up, encoded": (404, UP.replace(b"UP", b"%2e%2e/%2e%2e%2f__init__.py")),
    "a path of stars": (404, CLOSE.replace(b"POST /v1/embeddings", b"OPTIONS *") + sized(b"")),
    "a path without a slash": (400, CLOSE.replace(b"/v1/embeddings", b"v1/embeddings") + sized(SMALL)),
    "a whole address": (400, CLOSE.replace(b"/v1/embeddings", b"http://other") + sized(SMALL)),
    "a model's path of NUL": (404, UP.replace(b"/docs/assets/UP", b"/v1/models/%00%ff")),
    "HTTP/1.9": (400, (CLOSE + sized(SMALL)).replace(b"HTTP/1.1", b"HTTP/1.9")),
    "expects something": (200, CLOSE + b"expect: 200-ok\r\n" + sized(SMALL)),
    "nothing but line ends": (431, b"\r\n" * 30_000),
    "TLS": (400, bytes.fromhex("16030100f8010000f40303") * 9),
}


@pytest.mark.parametrize(("status", "sent"), BENT.values(), ids=BENT.keys())
def test_bent_requests(server, status, sent):
    """A request that is no HTTP, or odd HTTP, gets one response with the right status, and harms no other."""
    answers = ask(server.url, sent)
    assert_sound(answers)
    assert [answer.status for answer in answers] == [status]
    assert_serves(server.url)


UNFINISHED = {
    "a chunk's size of 16 digits": CHUNKED + b"f" * 16 + b"\r\n" + WHOLE,
    "a chunk's extension without end": CHUNKED + b"5;" + b"a" * 100_000,
    "chunks without end": CHUNKED + WHOLE[:-5],
    "a length that is too long": CLOSE + b"content-length: %d\r\n\r\n%b" % (len(SMALL) + 1, SMALL),
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED.keys())
def test_unfinished_requests(impatient, sent):
    """A request that stays incomplete is 408."""
    answers = ask(impatient.url, sent)
    assert_sound(answers)
    assert [answer.status for answer in answers] == [408]
    assert_serves(impatient.url)


SMUGGLED = {
    "both lengths": (
        200,
        CLOSE.replace(b"close", b"keep-alive")
        + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
        + WHOLE,
    ),
    "both lengths, the other way": (
        200,
        CLOSE.replace(b"close", b"keep-alive")
        + b"transfer-encoding: chunked\r\ncontent-length: %d\r\n\r\n" % (len(WHOLE) + len(HIDDEN))
        + WHOLE,
    ),
    "a last request": (
        200,
        CLOSE + sized(SMALL),
    ),
    "a bent chunk": (
        400,
        CHUNKED + b"zz\r\n\r\n0\r\n\r\n",
    ),
    "a blank before the colon": (
        400,
        START + b"content-length : 0\r\n\r\n",
    ),
    "a refused type": (
        415,
        START.replace(b"application/json", b"text/plain") + b"content-length: %d\r\n\r\n" % (len(HIDDEN) + 9),
    ),
}


@pytest.mark.parametrize(("status", "sent"), SMUGGLED.values(), ids=SMUGGLED.keys())
def test_a_request_inside_another(server, status, sent):
    """What could be the body of a request, or the next one, is never answered as the next one."""
    answers = ask(server.url, sent + HIDDEN)
    assert_sound(answers)
    assert [answer.status for answer in answers] == [status]
    assert answers[0].headers["connection"] == "close"
    assert_serves(server.url)


@pytest.mark.parametrize("end", [sized(SMALL), CHUNKED.partition(CLOSE)[2] + WHOLE], ids=["sized", "chunked"])
def test_cut_anywhere(server, end):
    """A request that is cut at any byte is not answered, nor does it harm the next one."""
    request = START + end
    for at in range(len(request)):
        assert ask(server.url, request[:at], stops=True) == []
    assert_serves(server.url)


def test_a_length_that_is_too_short(server):
    """Bytes left over after a body are refused, after the response to the request before them."""
    for length in range(len(SMALL)):
        with Connection(server.url, WAIT_S) as connection:
            connection.send(START + b"content-length: %d\r\n\r\n%b" % (length, SMALL))
            received = [connection.receive()[0], connection.receive()[0]]
            assert received == [400, 400]
            assert connection.ended()
    assert_serves(server.url)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["model", "input", "encoding_format", "dimensions", "user", "truncate", "input_type", "partial", "x"]
)
models = st.sampled_from(["fake", "native", "none"])
inputs = json_values | st.lists(st.text() | st.integers() | st.lists(st.integers(-1, 300)))
documents = st.builds(
    lambda model, input_, fields: json.dumps({"model": model, "input": input_} | fields),
    models,
    inputs,
    st.dictionaries(names, json_values, max_size=3),
).map(lambda text: text.encode("utf-8", "surrogatepass"))


@st.composite
def changed(draw, sources):
    """Return bytes of which some were taken out, put in or changed."""
    sent = bytearray(draw(sources))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(sent)))
        sent[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(sent)


def test_any_body(server, thousands):
    """Any body gets one response, and the next request is answered correctly."""

    def attempt(sent):
        answers = ask(server.url, CLOSE + sized(sent))
        assert_sound(answers)
        assert len(answers) == 1
        assert_serves(server.url)

    thousands(attempt, documents | changed(documents) | st.binary(max_size=256))


REQUESTS = st.sampled_from([CLOSE + sized(SMALL), CHUNKED + WHOLE, HIDDEN + CLOSE + sized(SMALL)])


def test_any_bytes(server, thousands):
    """Any bytes on a connection get well-formed responses, and the next request is answered correctly."""

    def attempt(sent):
        assert_sound(ask(server.url, sent, stops=True))
        assert_serves(server.url)

    thousands(attempt, changed(REQUESTS) | st.binary(max_size=256))
