"""Bodies that no client should send: each is the right error, and never another exception."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_gateway.api.decode import Decoder
from embeddings_gateway.api.schemas import inputs_of
from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import GatewayError, InvalidJson, InvalidRequest
from embeddings_gateway.serving.served import InputLimits

MAX_INPUTS = 2048
LIMITS = InputLimits(max_chars=100, max_ids=8192)
DECODERS = {"lenient": Decoder(ServerConfig()), "strict": Decoder(ServerConfig(strict=True))}
GOOD = b'{"model":"small","input":"a"}'


def body(**fields):
    """Return a body whose fields are given as JSON text, beside a good model and a good input."""
    plain = {"model": '"small"', "input": '"a"'} | fields
    return ("{" + ",".join(f'"{key}":{value}' for key, value in plain.items()) + "}").encode()


DEEP = "[" * 200_000 + "]" * 200_000
NOT_JSON = {
    "nothing": b"",
    "a blank": b" ",
    "cut short": GOOD[:-1],
    "trailing brace": GOOD + b"}",
    "two documents": GOOD + GOOD,
    "trailing zero byte": GOOD + b"\x00",
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32-le"),
    "not UTF-8": b'{"model":"small","input":"\xff"}',
    "Latin-1": '{"model":"small","input":"é"}'.encode("latin-1"),
    "surrogate in UTF-8": b'{"model":"small","input":"\xed\xa0\x80"}',
    "overlong UTF-8": b'{"model":"small","input":"\xc0\x80"}',
    "lone high surrogate": b'{"model":"small","input":"\\ud800"}',
    "lone low surrogate": b'{"model":"small","input":"a\\udc00b"}',
    "reversed surrogates": b'{"model":"small","input":"\\udc00\\ud800"}',
    "bare control character": b'{"model":"small","input":"a\nb"}',
    "NaN": body(input="[NaN]"),
    "Infinity": body(dimensions="Infinity"),
    "single quotes": b"{'model':'small','input':'a'}",
    "comment": GOOD + b"// a",
    "form": b"model=small&input=a",
    "deep from the start": b"[" * 200_000,
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("what", NOT_JSON)
def test_not_json(what, decoder):
    """A body that is not one JSON object in UTF-8 is refused as such."""
    with pytest.raises(InvalidRequest) as refusal:
        DECODERS[decoder].decode(NOT_JSON[what])
    assert type(refusal.value) is InvalidJson or what == "deep from the start"
    assert refusal.value.param is None


def test_nested_deep_in_an_ignored_field():
    """A document that is nested too deep is refused, also in unknown fields."""
    with pytest.raises(InvalidJson):
        DECODERS["lenient"].decode(body(extra=DEEP))
    with pytest.raises(InvalidJson):
        DECODERS["lenient"].decode(body(extra='{"a":' * 200_000 + "1" + "}" * 200_000))


@pytest.mark.parametrize("document", ["null", "1", '"small"', "[]", "true", "[" + GOOD.decode() + "]"])
def test_no_object(document):
    """A document that is no object is refused, with no field to name."""
    with pytest.raises(InvalidRequest) as refusal:
        DECODERS["lenient"].decode(document.encode())
    assert type(refusal.value) is InvalidRequest
    assert refusal.value.param is None


HUGE = "9" * 400
WRONG_FIELDS = [
    (b"{}", "model"),
    (b'{"input":"a"}', "model"),
    (b'{"model":"small"}', "input"),
    (body(model="null"), "model"),
    (body(model="7"), "model"),
    (body(model='["small"]'), "model"),
    (body(input="null"), "input"),
    (body(input="7"), "input"),
    (body(input="true"), "input"),
    (body(input="{}"), "input"),
    (body(input='["a",null]'), "input[1]"),
    (body(input='["a",{}]'), "input[1]"),
    (body(input="[true]"), "input[0]"),
    (body(input="[1,false]"), "input[1]"),
    (body(input="[1,1.5]"), "input[1]"),
    (body(input="[1e999]"), "input[0]"),
    (body(input="[[1],[true]]"), "input[1][0]"),
    (body(input="[[1],[2,1.5]]"), "input[1][1]"),
    (body(input='[["a"]]'), "input[0][0]"),
    (body(input="[[[1]]]"), "input[0][0]"),
    (body(input=f"[[{'9' * 5000}]]"), "input[0][0]"),
    (body(input=DEEP), "input[0][0]"),
    (body(encoding_format='"hex"'), "encoding_format"),
    (body(encoding_format="1"), "encoding_format"),
    (body(dimensions="0"), "dimensions"),
    (body(dimensions="-1"), "dimensions"),
    (body(dimensions="true"), "dimensions"),
    (body(dimensions='"4"'), "dimensions"),
    (body(dimensions="1.5"), "dimensions"),
    (body(dimensions="1e999"), "dimensions"),
    (body(dimensions=f"-{HUGE}"), "dimensions"),
    (body(user="7"), "user"),
    (body(truncate='"both"'), "truncate"),
    (body(truncate="1"), "truncate"),
    (body(input_type='"clustering"'), "input_type"),
    (body(partial="1"), "partial"),
    (body(partial='"true"'), "partial"),
]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("sent", "param"), WRONG_FIELDS, ids=range(len(WRONG_FIELDS)))
def test_wrong_field(sent, param, decoder):
    """A field that is missing, of the wrong type or out of range is refused by name."""
    with pytest.raises(InvalidRequest) as refusal:
        DECODERS[decoder].decode(sent)
    assert type(refusal.value) is InvalidRequest
    assert refusal.value.param == param


def test_huge_numbers():
    """An integer of 400 digits is an integer, which no vocabulary and no model knows."""
    request = DECODERS["lenient"].decode(body(input=f"[[{HUGE}]]", dimensions=HUGE))
    assert request.dimensions == int(HUGE)
    assert inputs_of(request, MAX_INPUTS, LIMITS).inputs == [[int(HUGE)]]


def test_duplicate_keys():
    """Of a key that is there twice the last one counts, as in every JSON reader that clients use."""
    request = DECODERS["strict"].decode(b'{"model":"small","input":"a","input":"b","model":"large"}')
    assert (request.model, request.input) == ("large", "b")


@pytest.mark.parametrize(
    "field", ["encoding_format", "truncate", "input_type", "user", "dimensions", "partial"]
)
def test_message_repeats_nothing(field):
    """A message never repeats a value that was sent: a client may have put a text in the wrong field."""
    sent = body(**{field: '{"a":"secret words"}' if field == "user" else '"secret words - at `$.input`"'})
    with pytest.raises(InvalidRequest) as refusal:
        DECODERS["lenient"].decode(sent)
    assert "secret" not in refusal.value.message
    assert refusal.value.param == field


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    ["model", "input", "encoding_format", "dimensions", "user", "truncate", "partial", "x"]
)
documents = st.dictionaries(fields, json_values).map(
    lambda fields: json.dumps({"model": "m", "input": "a"} | fields).encode("utf-8", "surrogatepass")
)


@given(st.binary(max_size=64) | documents | documents.map(lambda good: good[:-2]))
def test_anything(sent):
    """Whatever arrives, it is a request or an error of the tree."""
    for decoder in DECODERS.values():
        with contextlib.suppress(GatewayError):
            inputs_of(decoder.decode(sent), MAX_INPUTS, LIMITS)
