"""The bytes of a response: the vectors bit for bit, one entry for each input, in order."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from embeddings_gateway.api.encode import BLOCK_NUMBERS, encode_response
from embeddings_gateway.api.errors import ErrorDetail
from embeddings_gateway.serving.assemble import cut

FINITE = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
EXTREMES = np.array(
    [[0.0, -0.0, 1e-45, -1e-45], [1.1754944e-38, 3.4028235e38, -3.4028235e38, 1.1754942e-38]], np.float32
)
DETAIL = ErrorDetail("The model fails on this input.", "server_error", "input[1]", "input_failed")


async def pieces_of(vectors, form="float", errors=None, inputs=None):
    """Return the pieces of the response."""
    inputs = len(vectors) if inputs is None else inputs
    return await encode_response(
        vectors, errors or {}, inputs=inputs, model="small", tokens=7, encoding_format=form
    )


def encode(*what, **more):
    """Return the response, read back as JSON."""
    return json.loads(b"".join(asyncio.run(pieces_of(*what, **more))))


def decoded(response, form):
    """Return the vectors of a response as a client reads them."""
    rows = [one["embedding"] for one in response["data"]]
    if form == "base64":
        return np.stack([np.frombuffer(base64.b64decode(row, validate=True), "<f4") for row in rows])
    return np.array(rows, dtype=np.float64).astype(np.float32)


@given(FINITE)
def test_bits(vectors):
    """Both forms read back to the same bits."""
    for form in ("float", "base64"):
        assert decoded(encode(vectors, form), form).tobytes() == vectors.tobytes()


@pytest.mark.parametrize("form", ["float", "base64"])
def test_extremes(form):
    """Denormals, the largest numbers and the sign of zero survive."""
    assert decoded(encode(EXTREMES, form), form).tobytes() == EXTREMES.tobytes()


@pytest.mark.parametrize("form", ["float", "base64"])
def test_any_memory_order(form):
    """Vectors that are not contiguous are written row by row too."""
    vectors = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    assert np.array_equal(decoded(encode(vectors, form), form), vectors)
    assert np.array_equal(decoded(encode(vectors[:, ::2], form), form), vectors[:, ::2])


def test_shape():
    """The response has OpenAI's keys, and entry i is input i."""
    response = encode(EXTREMES)
    assert {key: value for key, value in response.items() if key != "data"} == {
        "object": "list",
        "model": "small",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    assert [(one["object"], one["index"]) for one in response["data"]] == [("embedding", 0), ("embedding", 1)]


@pytest.mark.parametrize("form", ["float", "base64"])
def test_errors_in_place(form):
    """A failed input has its error in its place, and its row is not looked at."""
    vectors = np.full((3, 4), np.nan, np.float32)
    vectors[[0, 2]] = EXTREMES
    data = encode(vectors, form, {1: DETAIL})["data"]
    assert [one["index"] for one in data] == [0, 1, 2]
    assert data[1] == {
        "object": "embedding_error",
        "index": 1,
        "error": {
            "message": "The model fails on this input.",
            "type": "server_error",
            "param": "input[1]",
            "code": "input_failed",
        },
    }
    assert decoded({"data": [data[0], data[2]]}, form).tobytes() == EXTREMES.tobytes()


@pytest.mark.parametrize("form", ["float", "base64"])
@pytest.mark.parametrize("width", [3, 4, 384])
def test_errors_anywhere(form, width):
    """An error stands in its place in any block, and its neighbours keep their vectors."""
    vectors = np.random.default_rng(1).standard_normal((1000, width)).astype(np.float32)
    failed = [0, 85, 86, 682, 999]
    vectors[failed] = np.inf
    data = encode(vectors, form, dict.fromkeys(failed, DETAIL))["data"]
    assert [entry["index"] for entry in data] == list(range(1000))
    assert [entry["index"] for entry in data if entry["object"] == "embedding_error"] == failed
    others = [entry for entry in data if entry["index"] not in failed]
    assert decoded({"data": others}, form).tobytes() == np.delete(vectors, failed, axis=0).tobytes()


def test_nothing_but_errors():
    """When every input failed there is still an entry for each."""
    data = encode(np.full((2, 4), np.nan, np.float32), errors={0: DETAIL, 1: DETAIL})["data"]
    assert [one["object"] for one in data] == ["embedding_error"] * 2


@pytest.mark.parametrize("form", ["float", "base64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(form, value):
    """A number that is not finite is refused, not written."""
    vectors = np.ones((2, 4), np.float32)
    vectors[1, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        encode(vectors, form)


@pytest.mark.parametrize("inputs", [0, 1, 3])
def test_wrong_count(inputs):
    """Another count of vectors than of inputs is refused, not written."""
    with pytest.raises(ValueError, match="2 vectors"):
        encode(EXTREMES, inputs=inputs)


@pytest.mark.parametrize("form", ["float", "base64"])
def test_large_response_comes_in_pieces(form):
    """No piece holds more than its share of the numbers, the loop turns after each, and nothing is lost."""
    vectors = np.random.default_rng(1).standard_normal((600, 1000)).astype(np.float32)
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run():
        beside = asyncio.ensure_future(others())
        await asyncio.sleep(0)
        before = turns
        pieces = await pieces_of(vectors, form)
        beside.cancel()
        return pieces, turns - before

    pieces, turned = asyncio.run(run())
    max_rows = BLOCK_NUMBERS[form] // 1000
    assert [piece.count(b'"index"') for piece in pieces] == [max_rows] * (600 // max_rows) + [600 % max_rows]
    assert turned == len(pieces) - 1
    assert decoded(json.loads(b"".join(pieces)), form).tobytes() == vectors.tobytes()


@pytest.mark.parametrize("model", ["small", 'a "data":[] b', "[]"])
def test_any_name(model):
    """Whatever the model is called, its name stands where it belongs."""
    vectors = np.ones((2, 3), np.float32)
    coroutine = encode_response(vectors, {}, inputs=2, model=model, tokens=7, encoding_format="float")
    response = json.loads(b"".join(asyncio.run(coroutine)))
    assert (response["model"], len(response["data"])) == (model, 2)


def test_cut_renormalises():
    """Cut vectors of a model with unit lengths have unit length and the same direction."""
    vectors = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    short = cut(vectors, 4, normalized=True)
    assert (short.shape, short.dtype, short.flags.c_contiguous) == ((5, 4), np.float32, True)
    assert np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    assert np.allclose(short * np.linalg.norm(vectors[:, :4], axis=1, keepdims=True), vectors[:, :4])


def test_cut_of_a_model_without_unit_length():
    """Where vectors have no unit length, cutting changes no number."""
    vectors = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
    assert np.array_equal(cut(vectors, 4, normalized=False), vectors[:, :4])


def test_cut_beside_failed_rows():
    """Cutting leaves the rows of failed inputs without numbers, and the others right."""
    vectors = np.full((2, 8), np.nan, np.float32)
    vectors[1] = 0.5
    short = cut(vectors, 4, normalized=True)
    assert np.isnan(short[0]).all()
    assert np.allclose(short[1], 0.5)
