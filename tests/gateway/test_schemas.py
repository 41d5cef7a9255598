"""Bodies that clients really send, and the inputs that they mean."""

from __future__ import annotations

import json

import pytest

from embeddings_gateway.api.decode import Decoder
from embeddings_gateway.api.schemas import INPUT_TYPE, TRUNCATE, inputs_of
from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import InvalidRequest, TooManyTokens
from embeddings_gateway.serving.served import InputLimits

MAX_INPUTS = 2048
LIMITS = InputLimits(max_chars=100, max_ids=8192)
OURS_AND_OPENAIS = {
    "model": "small",
    "input": ["a"],
    "encoding_format": "base64",
    "dimensions": 4,
    "user": "somebody",
    "truncate": "left",
    "input_type": "query",
    "partial": True,
}


def decode(body, strict=False):
    """Return the request that a body means."""
    return Decoder(ServerConfig(strict=strict)).decode(json.dumps(body).encode())


def inputs(given):
    """Return the inputs that ``input`` means."""
    return inputs_of(decode({"model": "small", "input": given}), MAX_INPUTS, LIMITS).inputs


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("a", ["a"]),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([0], [[0]]),
        (" ", [" "]),
        ("\u0000", ["\u0000"]),
    ],
)
def test_kinds_of_input(given, means):
    """A string, strings, ids and lists of ids all become a list of inputs."""
    assert inputs(given) == means


def test_largest_request():
    """2048 inputs, 8192 ids in one array and the longest text allowed are taken."""
    assert len(inputs(["a"] * 2048)) == 2048
    assert len(inputs([[1]] * 2048)) == 2048
    assert inputs([1] * 8192) == [[1] * 8192]
    assert inputs("a" * 100) == ["a" * 100]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([], "input"),
        ("", "input"),
        ([""], "input[0]"),
        (["a", ""], "input[1]"),
        ([[]], "input[0]"),
        ([[1], []], "input[1]"),
        (["a"] * 2049, "input"),
        ([[1]] * 2049, "input"),
        ("a" * 101, "input"),
        (["a", "a" * 101], "input[1]"),
        (["a", 1], "input[1]"),
        (["a", [1]], "input[1]"),
        ([1, "a"], "input[1]"),
        ([1, [1]], "input[1]"),
        ([[1], "a"], "input[1]"),
        ([[1], 1], "input[1]"),
        (["a", "b", "c", 7], "input[3]"),
    ],
)
def test_refused_inputs(given, param):
    """No input, an empty one, too many, too long ones and mixed kinds are refused by name."""
    with pytest.raises(InvalidRequest) as refusal:
        inputs(given)
    assert type(refusal.value) is InvalidRequest
    assert refusal.value.param == param


def test_too_many_ids():
    """More ids in one flat array than allowed are too many tokens."""
    with pytest.raises(TooManyTokens) as refusal:
        inputs([1] * 8193)
    assert refusal.value.param == "input"


def test_every_field():
    """Every field that is known is read, in strict mode too."""
    for strict in (False, True):
        request = decode(OURS_AND_OPENAIS, strict)
        assert {key: getattr(request, key) for key in OURS_AND_OPENAIS} == OURS_AND_OPENAIS


@pytest.mark.parametrize("strict", [False, True])
def test_nulls(strict):
    """Every optional field may be null, which means that it is not there."""
    optional = dict.fromkeys(OURS_AND_OPENAIS.keys() - {"model", "input"})
    plain = {"model": "small", "input": ["a"]}
    assert decode(plain | optional, strict) == decode(plain, strict)


def test_unknown_fields():
    """A field that is not known is ignored; in strict mode it is refused, unnamed, for it may be a text."""
    body = OURS_AND_OPENAIS | {"extra_headers": {"a": [1, None, {"b": 2.5}]}}
    assert decode(body) == decode(OURS_AND_OPENAIS)
    with pytest.raises(InvalidRequest) as refusal:
        decode(body, strict=True)
    assert refusal.value.param is None
    assert "extra_headers" not in refusal.value.message


def test_partial_keeps_what_is_wrong_with_an_input():
    """With partial results an invalid input gets its error, and the others are passed on."""
    request = decode({"model": "small", "input": ["a", "", "b" * 101], "partial": True})
    result = inputs_of(request, MAX_INPUTS, LIMITS)
    assert result.inputs == ["a", "", "b" * 101]
    assert {index: error.param for index, error in result.errors.items()} == {1: "input[1]", 2: "input[2]"}


@pytest.mark.parametrize(
    ("sent", "means"),
    [
        ("NONE", "error"),
        ("END", "right"),
        ("START", "left"),
        (True, "right"),
        (False, "error"),
        ("mean", "mean"),
    ],
)
def test_other_words_for_truncate(sent, means):
    """What clients of other APIs send for it means what it means there."""
    assert TRUNCATE[decode({"model": "small", "input": "a", "truncate": sent}, strict=True).truncate] == means


@pytest.mark.parametrize(
    ("sent", "means"),
    [("search_query", "query"), ("search_document", "document"), ("passage", "document"), ("query", "query")],
)
def test_other_words_for_input_type(sent, means):
    """So does what they send for the type of a text."""
    assert INPUT_TYPE[decode({"model": "small", "input": "a", "input_type": sent}).input_type] == means


@pytest.mark.parametrize(
    ("field", "value", "listed"),
    [
        ("input_type", "clustering", ("query", "search_query", "document", "search_document", "passage")),
        ("truncate", "both", ("error", "NONE", "false", "right", "END", "true", "left", "START", "mean")),
        ("truncate", 2, ("error", "mean")),
        ("encoding_format", "int8", ("float", "base64")),
        ("dimensions", 0, ("an integer of at least 1",)),
        ("partial", "yes", ("true or false",)),
        ("model", None, ("a string",)),
    ],
)
def test_an_error_lists_the_values(field, value, listed):
    """An error about a field's value lists what it takes, and does not repeat what was sent."""
    with pytest.raises(InvalidRequest) as refusal:
        decode({"model": "small", "input": "a", field: value})
    assert refusal.value.param == field
    assert [word for word in listed if word not in refusal.value.message] == []
    assert f" {value}" not in refusal.value.message


def test_a_model_that_the_path_names():
    """Then the body need not have it; all else is checked as ever."""
    for strict in (False, True):
        decoder = Decoder(ServerConfig(strict=strict))
        for model in ({}, {"model": None}, {"model": "small"}):
            body = json.dumps({"input": "a", "dimensions": 3, **model}).encode()
            assert decoder.decode(body, needs_model=False).dimensions == 3
        with pytest.raises(InvalidRequest):
            decoder.decode(b'{"model": "small"}', needs_model=False)
    with pytest.raises(InvalidRequest):
        decoder.decode(b'{"input": "a", "unknown": 1}', needs_model=False)
