"""A large body means the same piece by piece as at once."""

from __future__ import annotations

import asyncio
import json
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings_gateway.api.decode import SLICE_BYTES, Decoder
from embeddings_gateway.api.json_pieces import MAX_UNCUT
from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import GatewayError, InvalidRequest, TooManyTokens
from tests.gateway.test_malformed_bodies import NOT_JSON, WRONG_FIELDS

LIMITS = ServerConfig(max_inputs=1000, max_input_chars=100_000)
DECODER = Decoder(LIMITS)
CHARACTERS = st.sampled_from([*'aé中😀,:[]{}" \\\n', "\x00"])
TEXTS = st.lists(CHARACTERS, max_size=300).map("".join)
NUMBERS = st.integers(-10, 10**6)
INPUTS = st.one_of(
    TEXTS,
    st.lists(TEXTS, max_size=8),
    st.lists(NUMBERS, max_size=60),
    st.lists(st.lists(NUMBERS, max_size=40), max_size=8),
    st.lists(st.one_of(TEXTS, NUMBERS, st.lists(NUMBERS, max_size=3), st.none()), max_size=8),
)
ANYTHING = st.recursive(
    st.one_of(TEXTS, NUMBERS, st.none(), st.booleans()),
    lambda values: st.one_of(st.lists(values, max_size=4), st.dictionaries(TEXTS, values, max_size=4)),
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("small"), "input": INPUTS},
    optional={
        "encoding_format": st.sampled_from(["float", "base64", "floating", None]),
        "dimensions": st.integers(0, 5),
        "unknown": ANYTHING,
        "n" * 400: ANYTHING,
        "partial": st.booleans(),
    },
).flatmap(lambda fields: st.permutations(list(fields.items())).map(dict))
SLICES = st.sampled_from([1, 2, 3, 7, 20, 64, 200])


def decoded(body: bytes, slice_bytes: int, decoder: Decoder = DECODER):
    """Return the fields of a request, or the error of its body."""
    try:
        if slice_bytes:
            request = asyncio.run(decoder.decode_in_turns(bytearray(body), slice_bytes))
        else:
            request = decoder.decode(body)
    except GatewayError as error:
        return type(error), error.param
    return msgspec.structs.asdict(request)


@settings(max_examples=50)
@given(body=BODIES, slice_bytes=SLICES, ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 9]))
def test_same_request(body, slice_bytes, ascii_only, indent):
    """Whatever the slices, the request or the error is that of the whole body."""
    text = json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode()
    assert decoded(text, slice_bytes) == decoded(text, 0)


@given(body=BODIES, slice_bytes=SLICES, at=st.floats(0, 1), cut=st.integers(0, 3), junk=st.binary(max_size=2))
def test_same_verdict(body, slice_bytes, at, cut, junk):
    """A damaged body is refused in pieces exactly if it is refused as a whole."""
    text = json.dumps(body).encode()
    place = math.floor(at * len(text))
    damaged = text[:place] + junk + text[place + cut :]
    in_pieces, whole = decoded(damaged, slice_bytes), decoded(damaged, 0)
    assert isinstance(in_pieces, tuple) == isinstance(whole, tuple)
    assert isinstance(whole, tuple) or in_pieces == whole


@pytest.mark.parametrize("slice_bytes", [1, 5, 50])
@pytest.mark.parametrize("what", NOT_JSON)
def test_not_json(what, slice_bytes):
    """A body that is no JSON document is refused, wherever it is cut."""
    if len(NOT_JSON[what]) > MAX_UNCUT:
        slice_bytes = SLICE_BYTES
    refused = decoded(NOT_JSON[what], slice_bytes)
    assert isinstance(refused, tuple)
    assert issubclass(refused[0], InvalidRequest)
    assert refused[1] is None


@pytest.mark.parametrize("slice_bytes", [1, 6, 30])
@pytest.mark.parametrize(("body", "param"), [case for case in WRONG_FIELDS if len(case[0]) < MAX_UNCUT])
def test_wrong_fields(body, param, slice_bytes):
    """The field or the entry at fault is named by its place in the whole body."""
    assert decoded(body, slice_bytes) == (InvalidRequest, param)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ([[]] * 500_000, InvalidRequest),
        ([""] * 500_000, InvalidRequest),
        ([1] * 500_000, TooManyTokens),
        ([[1] * 8000] * 100, TooManyTokens),
    ],
    ids=["lists", "texts", "ids", "lists of ids"],
)
def test_refused_before_the_rest_is_decoded(inputs, error):
    """Too many inputs or token ids are refused before the rest of the body is looked at."""
    body = json.dumps({"model": "small", "input": inputs}).encode()[:-1] + b"this is no JSON"
    assert decoded(body, SLICE_BYTES) == (error, "input")


def test_too_long_inputs():
    """Of inputs that are too long enough is kept to refuse them, each by its index."""
    ids = {"model": "small", "input": [[1], [2] * 50_000, [3]], "partial": True}
    request = asyncio.run(DECODER.decode_in_turns(bytearray(json.dumps(ids).encode()), SLICE_BYTES))
    assert request.input[0::2] == [[1], [3]]
    assert LIMITS.max_input_ids < len(request.input[1]) < 50_000
    texts = {"model": "small", "input": ["a", "b" * 1_000_000, "c"]}
    request = asyncio.run(DECODER.decode_in_turns(bytearray(json.dumps(texts).encode()), SLICE_BYTES))
    assert request.input[0::2] == ["a", "c"]
    assert LIMITS.max_input_chars < len(request.input[1]) < 300_000


def test_strict():
    """A field that is not known is refused in any piece, if the gateway is strict."""
    body = json.dumps({"model": "small", "input": ["a"] * 300, "unknown": [1] * 300}).encode()
    strict = Decoder(ServerConfig(strict=True))
    assert decoded(body, 20, strict) == (InvalidRequest, None)
    assert decoded(body, 20) == decoded(body, 0)


def test_a_model_that_the_path_names():
    """Then a body need not have one in any of its pieces."""
    body = json.dumps({"input": ["a"] * 300, "model": None, "dimensions": 3}).encode()
    request = asyncio.run(DECODER.decode_in_turns(bytearray(body), 20, needs_model=False))
    assert request == DECODER.decode(body, needs_model=False)
    assert isinstance(decoded(body, 20), tuple)


@pytest.mark.anyio
async def test_other_work_goes_on():
    """While large bodies are decoded, other tasks get their turn between any two slices."""
    body = bytearray(json.dumps({"model": "small", "input": ["text " * 1000] * 200}).encode())
    decoding = [asyncio.create_task(DECODER.decode_any(body)) for _ in range(3)]
    turns = 0
    while not all(task.done() for task in decoding):
        await asyncio.sleep(0)
        turns += 1
    assert turns > len(decoding) * len(body) / SLICE_BYTES
    assert all(task.result().input == ["text " * 1000] * 200 for task in decoding)
