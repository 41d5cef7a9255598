"""The messages between gateway and worker: what goes in comes out, and nothing hostile gets through."""

from __future__ import annotations

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_gateway.backends.base import Batch, Column
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.messages import (
    FRAME_BYTES_MAX,
    HEADER,
    Check,
    Checked,
    Failed,
    Outdated,
    PackedBatch,
    PackedColumn,
    Ping,
    Pong,
    ProtocolError,
    Ran,
    Ready,
    Refused,
    Run,
    Start,
    Tokenize,
    Tokens,
    decode_from_worker,
    decode_to_worker,
    encode_frame,
    payload_length,
)
from embeddings_gateway.backends.spec import FakeSpec, GgufSpec, HfSpec

int32 = st.integers(-(2**31), 2**31 - 1)
id_lists = st.lists(st.lists(int32, max_size=9).map(lambda ids: np.array(ids, np.int32)), max_size=9)
BATCH = Batch.of([np.array([1, 2], np.int32), np.array([3], np.int32)])
PAIRS = Batch(BATCH.ids, BATCH.lengths, np.array([0, 1, 0], np.int32))
COLUMNS = {
    "dense": Column(np.ones((2, 4), np.float32)),
    "sparse": Column(np.ones((3, 1), np.float32), np.array([0, 3, 3]), np.array([5, 7, 9], np.int32)),
    "multi_vector": Column(np.ones((3, 2), np.float32), np.array([0, 2, 3])),
}
TO_WORKER = [
    Start(FakeSpec(width=4, prompts={"query": "q: "})),
    Start(HfSpec(path="/m", sha256={"a": "b"}, threads=2, pooling="cls")),
    Start(GgufSpec(path="/m.gguf", n_gpu_layers=-1, normalize=False)),
    Tokenize(1, ["", "a", "漢字 🙂", "\x00"]),
    Tokenize(2, ["a"], ["b"]),
    Run(2**63, ("dense", "sparse"), PackedBatch.of(BATCH)),
    Run(7, ("score",), PackedBatch.of(PAIRS)),
    Check(5),
    Check(6, brief=True),
    Ping(0),
]
FROM_WORKER = [
    Ready(
        FakeBackend(FakeSpec(prompts={"query": "q: "})).info,
        1.5,
        2e4,
        {"dense": PackedColumn.of(Column(np.eye(3, dtype=np.float32)))},
    ),
    Outdated("/m.gguf"),
    Checked(4, "wrong"),
    Refused("no file"),
    Tokens(1, PackedBatch.of(PAIRS)),
    Ran.of(2, COLUMNS, 0.1),
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
    """A message to a worker arrives as it was sent, and a worker's reply is refused as one."""
    payload = payload_of(encode_frame(message))
    assert decode_to_worker(payload) == message
    with pytest.raises(ProtocolError):
        decode_from_worker(payload)


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda message: type(message).__name__)
def test_from_worker(message):
    """A worker's reply arrives as it was sent, and a request is refused as one."""
    payload = payload_of(encode_frame(message))
    assert decode_from_worker(payload) == message
    with pytest.raises(ProtocolError):
        decode_to_worker(payload)


@given(id_lists)
def test_batch(inputs):
    """Token ids come out of their packing as they went in, input by input."""
    unpacked = PackedBatch.of(Batch.of(inputs)).unpack()
    assert [ids.tolist() for ids in unpacked.split()] == [ids.tolist() for ids in inputs]
    assert (unpacked.ids.dtype, unpacked.segments) == (np.int32, None)
    segments = unpacked.ids % 2
    assert (
        PackedBatch.of(Batch(unpacked.ids, unpacked.lengths, segments)).unpack().segments == segments
    ).all()


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 5)])
def test_values(shape):
    """Values come out of their packing bit for bit, whatever their order in memory."""
    values = np.asfortranarray(np.random.default_rng(1).standard_normal(shape), np.float32)
    unpacked = PackedColumn.of(Column(values)).unpack()
    assert (unpacked.values.shape, unpacked.values.dtype) == (shape, np.float32)
    assert unpacked.values.tobytes() == values.tobytes()
    assert (unpacked.offsets, unpacked.indices) == (None, None)


@pytest.mark.parametrize("output", COLUMNS)
def test_columns(output):
    """A column of each output arrives whole, with its offsets and indices."""
    frame = encode_frame(Ran.of(1, COLUMNS, 0.5))
    arrived, sent = decode_from_worker(payload_of(frame)).unpack()[output], COLUMNS[output]
    for name in ("values", "offsets", "indices"):
        np.testing.assert_array_equal(getattr(arrived, name), getattr(sent, name))


@given(st.binary(max_size=24), st.binary(max_size=24), st.none() | st.binary(max_size=24))
def test_hostile_batch(lengths, ids, segments):
    """Ids that do not fit their lengths or segments are a protocol error; what is let through fits."""
    try:
        unpacked = PackedBatch(lengths, ids, segments).unpack()
    except ProtocolError:
        return
    assert unpacked.lengths.tobytes() == lengths
    assert b"".join(one.tobytes() for one in unpacked.split()) == ids
    assert segments is None or len(segments) == len(ids)


LYING_LENGTHS = [(b"\x01\x00\x00", b""), (b"\x01\x00\x00\x00", b"\x00"), (b"\x02\x00\x00\x00", b"\x00" * 4)]


@pytest.mark.parametrize(
    ("lengths", "ids"), [*LYING_LENGTHS, (struct.pack("<ii", 2, -1), b"\x00" * 4), (b"", b"\x00" * 4)]
)
def test_lying_lengths(lengths, ids):
    """Lengths that are cut short, negative or do not add up are a protocol error."""
    with pytest.raises(ProtocolError):
        PackedBatch(lengths, ids).unpack()


@given(
    st.integers(-(2**63), 2**64 - 1) | st.integers(-1, 3),
    st.binary(max_size=24),
    st.none() | st.lists(st.integers(-1, 4), max_size=4),
    st.none() | st.binary(max_size=12),
)
def test_hostile_column(width, values, offsets, indices):
    """A column whose parts do not fit each other is a protocol error; what is let through fits."""
    packed = None if offsets is None else np.array(offsets, "<i8").tobytes()
    try:
        column = PackedColumn(width, values, packed, indices).unpack()
    except ProtocolError:
        return
    rows = len(column.values)
    assert column.values.shape == (rows, width)
    assert column.values.tobytes() == values
    assert offsets is None or (offsets == sorted(offsets) and offsets[0] == 0 and offsets[-1] == rows)
    assert indices is None or len(column.indices) == rows


tags = [msgspec.inspect.type_info(type(one)).tag for one in [*TO_WORKER, *FROM_WORKER]]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["id", "texts", "text_pairs", "outputs", "batch", "columns", "seconds", "reason", "spec", "info"]
)
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
    """A frame may be as large as the limit, and not a byte larger."""
    assert payload_length(HEADER.pack(FRAME_BYTES_MAX)) == FRAME_BYTES_MAX
    for length in (FRAME_BYTES_MAX + 1, 2**32 - 1):
        with pytest.raises(ProtocolError):
            payload_length(HEADER.pack(length))
