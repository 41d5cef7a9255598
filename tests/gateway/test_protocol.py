"""The messages between gateway and worker: what goes in comes out, and nothing hostile gets through."""

from __future__ import annotations

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_gateway.backends.protocol import (
    FRAME_BYTES_MAX,
    HEADER,
    Check,
    Checked,
    Embed,
    Embedded,
    Failed,
    PackedIds,
    Ping,
    Pong,
    ProtocolError,
    Ready,
    Refused,
    Start,
    Tokenize,
    Tokens,
    decode_from_worker,
    decode_to_worker,
    encode_frame,
    payload_length,
)
from embeddings_gateway.backends.spec import FakeSpec, GgufSpec, HfSpec
from tests.gateway.fakes import make_info

int32 = st.integers(-(2**31), 2**31 - 1)
id_lists = st.lists(st.lists(int32, max_size=9).map(lambda ids: np.array(ids, np.int32)), max_size=9)
PACKED = PackedIds.of([np.array([1, 2], np.int32), np.array([3], np.int32)])
TO_WORKER = [
    Start(FakeSpec(width=4, prompts={"query": "q: "})),
    Start(HfSpec(path="/m", sha256={"a": "b"}, threads=2, pooling="cls")),
    Start(GgufSpec(path="/m.gguf", n_gpu_layers=-1, normalize=False)),
    Tokenize(1, ["", "a", "漢字 🙂", "\x00"]),
    Embed(2**63, PACKED),
    Check(5),
    Ping(0),
]
FROM_WORKER = [
    Ready(make_info(prompts={"query": "q: "}), 1.5, 2e4),
    Checked(4, "wrong"),
    Refused("no file"),
    Tokens(1, PACKED, 0.1),
    Embedded.of(2, np.ones((3, 4), np.float32), 0.1),
    Failed(3, "ValueError"),
    Pong(4, 0.0),
]


def payload_of(frame):
    """Return what follows the header of a frame, after checking the header."""
    payload = frame[HEADER.size :]
    assert payload_length(frame[: HEADER.size]) == len(payload)
    return payload


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
def test_to_worker(message):
    """A message to a worker arrives as it was sent, and a worker's answer is not taken for one."""
    payload = payload_of(encode_frame(message))
    assert decode_to_worker(payload) == message
    with pytest.raises(ProtocolError):
        decode_from_worker(payload)


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda message: type(message).__name__)
def test_from_worker(message):
    """A worker's answer arrives as it was sent, and a call is not taken for one."""
    payload = payload_of(encode_frame(message))
    assert decode_from_worker(payload) == message
    with pytest.raises(ProtocolError):
        decode_to_worker(payload)


@given(id_lists)
def test_ids(inputs):
    """Token ids come out of their packing as they went in, input by input."""
    unpacked = PackedIds.of(inputs).unpack()
    assert [ids.tolist() for ids in unpacked] == [ids.tolist() for ids in inputs]
    assert all(ids.dtype == np.int32 for ids in unpacked)


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 5)])
def test_vectors(shape):
    """Vectors come out of their packing bit for bit, whatever their order in memory."""
    vectors = np.asfortranarray(np.random.default_rng(1).standard_normal(shape), np.float32)
    unpacked = Embedded.of(1, vectors, 0.0).unpack()
    assert (unpacked.shape, unpacked.dtype) == (shape, np.float32)
    assert unpacked.tobytes() == vectors.tobytes()


@given(st.binary(max_size=24), st.binary(max_size=24))
def test_hostile_ids(lengths, ids):
    """Ids whose lengths do not add up are a protocol error; what is let through adds up."""
    try:
        unpacked = PackedIds(lengths, ids).unpack()
    except ProtocolError:
        return
    assert [len(one) for one in unpacked] == np.frombuffer(lengths, "<i4").tolist()
    assert b"".join(one.tobytes() for one in unpacked) == ids


LYING_LENGTHS = [(b"\x01\x00\x00", b""), (b"\x01\x00\x00\x00", b"\x00"), (b"\x02\x00\x00\x00", b"\x00" * 4)]


@pytest.mark.parametrize(
    ("lengths", "ids"), [*LYING_LENGTHS, (struct.pack("<ii", 2, -1), b"\x00" * 4), (b"", b"\x00" * 4)]
)
def test_lying_lengths(lengths, ids):
    """Lengths that are cut short, negative or do not add up are a protocol error."""
    with pytest.raises(ProtocolError):
        PackedIds(lengths, ids).unpack()


@given(
    st.integers(-(2**63), 2**64 - 1) | st.integers(-1, 3),
    st.integers(-(2**63), 2**64 - 1) | st.integers(-1, 3),
    st.binary(max_size=24),
)
def test_hostile_vectors(inputs, dimensions, data):
    """Vectors whose shape does not fit their bytes are a protocol error; what is let through fits."""
    try:
        vectors = Embedded(1, inputs, dimensions, data, 0.0).unpack()
    except ProtocolError:
        return
    assert vectors.shape == (inputs, dimensions)
    assert vectors.tobytes() == data


tags = [msgspec.inspect.type_info(type(one)).tag for one in [*TO_WORKER, *FROM_WORKER]]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["id", "texts", "inputs", "dimensions", "data", "seconds", "reason", "spec", "info"])
almost = st.builds(
    lambda tag, fields: msgspec.msgpack.encode({"type": tag, **fields}),
    st.sampled_from(tags),
    st.dictionaries(keys, values, max_size=5),
)


def bent(frames):
    """Return frames of which one byte was changed."""
    return st.builds(
        lambda frame, place, byte: frame[: place % len(frame)] + byte + frame[place % len(frame) + 1 :],
        st.sampled_from([payload_of(encode_frame(message)) for message in frames]),
        st.integers(0, 400),
        st.binary(min_size=1, max_size=1),
    )


@given(st.binary(max_size=64) | almost | bent(TO_WORKER + FROM_WORKER))
def test_hostile_payloads(payload):
    """Whatever arrives in a frame, it is a message or a protocol error."""
    for decode in (decode_to_worker, decode_from_worker):
        try:
            message = decode(payload)
        except ProtocolError:
            continue
        assert type(message) in {type(one) for one in TO_WORKER + FROM_WORKER}


NOT_UTF8 = msgspec.msgpack.encode({"type": "refused", "reason": "abc"}).replace(b"abc", b"\xff\xfe\xfd")
NESTED = b"\x83\xa4type\xa4ping\xa2id\x01\xa1x" + b"\x91" * 200_000 + b"\x01"


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", NOT_UTF8, NESTED, b"\x91" * 200_000, encode_frame(Ping(1))], ids=range(6)
)
def test_no_message(payload):
    """What is no message, or is nested too deep, is a protocol error on either side."""
    for decode in (decode_to_worker, decode_from_worker):
        with pytest.raises(ProtocolError):
            decode(payload)


def test_frame_sizes():
    """A frame is as large as the bound allows, and not a byte more."""
    assert payload_length(HEADER.pack(FRAME_BYTES_MAX)) == FRAME_BYTES_MAX
    for length in (FRAME_BYTES_MAX + 1, 2**32 - 1):
        with pytest.raises(ProtocolError):
            payload_length(HEADER.pack(length))
