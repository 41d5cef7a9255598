"""The messages between the gateway and a worker, and how they are framed on the socket between them.

A frame is a length (4 bytes, little-endian) and that many bytes of msgpack. Token ids travel as raw int32,
vectors as raw float32, both little-endian. The gateway speaks first: one ``Start``, answered by ``Ready`` or
``Refused``; then calls, each with an id that its answer carries. Answers may come in any order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import ModelInfo, TokenIds, Vectors
from embeddings_gateway.backends.spec import Spec

FRAME_BYTES_MAX = 1 << 30
HEADER = struct.Struct("<I")


class ProtocolError(Exception):
    """A frame that no correct peer sends."""


class PackedIds(msgspec.Struct, frozen=True, array_like=True):
    """Token ids of several inputs: ``lengths`` int32 ``[inputs]`` and, end to end, ``ids`` int32."""

    lengths: bytes
    ids: bytes

    @classmethod
    def of(cls, inputs: Sequence[TokenIds]) -> PackedIds:
        """Pack the ids of each input."""
        lengths = np.fromiter(map(len, inputs), dtype="<i4", count=len(inputs))
        flat = np.concatenate(inputs) if inputs else np.empty(0, dtype="<i4")
        return cls(lengths.tobytes(), flat.astype("<i4", copy=False).tobytes())

    def unpack(self) -> list[TokenIds]:
        """Return one read-only int32 array per input.

        Raises:
            ProtocolError: the lengths do not add up to the ids.
        """
        lengths = _array(self.lengths, "<i4").tolist()
        flat = _array(self.ids, "<i4")
        if min(lengths, default=0) < 0 or sum(lengths) != len(flat):
            raise ProtocolError("lengths and ids disagree")
        return [flat[end - length : end] for end, length in zip(accumulate(lengths), lengths, strict=True)]


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Load this model; the first frame, sent once."""

    spec: Spec


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    """Answered by ``Tokens`` or ``Failed``."""

    id: int
    texts: list[str]


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    """Answered by ``Embedded`` or ``Failed``."""

    id: int
    inputs: PackedIds


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Answered by ``Pong``, also while a batch is computed."""

    id: int


class Check(msgspec.Struct, frozen=True, tag="check"):
    """Whether the model still passes its self-test; answered by ``Checked`` or ``Failed``."""

    id: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded, and has passed its self-test.

    Attributes:
        info: the facts of the model.
        seconds: how long it took to load.
        tokens_per_s: how many tokens a second a small batch is computed with.
    """

    info: ModelInfo
    seconds: float
    tokens_per_s: float


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The model cannot be served; starting again would not help. The worker ends."""

    reason: str


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """The ids of each text of a ``Tokenize``, in order."""

    id: int
    inputs: PackedIds
    seconds: float


class Embedded(msgspec.Struct, frozen=True, tag="embedded"):
    """The vectors of an ``Embed``: float32 ``[inputs, dimensions]``, row-major."""

    id: int
    inputs: int
    dimensions: int
    data: bytes
    seconds: float

    @classmethod
    def of(cls, call_id: int, vectors: Vectors, seconds: float) -> Embedded:
        """Pack ``vectors``, shape ``[inputs, dimensions]``."""
        inputs, dimensions = vectors.shape
        rows = np.ascontiguousarray(vectors, dtype="<f4")
        return cls(call_id, inputs, dimensions, rows.tobytes(), seconds)

    def unpack(self) -> Vectors:
        """Return the vectors as a read-only array.

        Raises:
            ProtocolError: the shape does not fit the bytes.
        """
        flat = _array(self.data, "<f4")
        sane = self.inputs >= 0 and 1 <= self.dimensions <= FRAME_BYTES_MAX
        if not sane or self.inputs * self.dimensions != len(flat):
            raise ProtocolError("shape and vectors disagree")
        return flat.reshape(self.inputs, self.dimensions)


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The call failed; the worker is still usable.

    Attributes:
        id: of the call.
        reason: never contains a user's text.
        memory: whether there was no memory for it.
    """

    id: int
    reason: str
    memory: bool = False


class Checked(msgspec.Struct, frozen=True, tag="checked"):
    """What is wrong with the model; empty if nothing is."""

    id: int
    wrong: str


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The worker is alive; ``busy_seconds`` is how long the batch being computed has run, 0 when idle."""

    id: int
    busy_seconds: float


Call = Tokenize | Embed | Check | Ping
ToWorker = Start | Call
Answer = Tokens | Embedded | Checked | Failed | Pong
FromWorker = Ready | Refused | Answer

NOT_A_MESSAGE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode_frame(message: ToWorker | FromWorker) -> bytes:
    """Return the message as one frame."""
    payload = _encoder.encode(message)
    return HEADER.pack(len(payload)) + payload


def payload_length(header: bytes) -> int:
    """Return how many bytes follow this header.

    Raises:
        ProtocolError: more than ``FRAME_BYTES_MAX``.
    """
    (length,) = HEADER.unpack(header)
    if length > FRAME_BYTES_MAX:
        raise ProtocolError(f"a frame of {length} bytes")
    return int(length)


def decode_to_worker(payload: bytes) -> ToWorker:
    """Decode what the gateway sent.

    Raises:
        ProtocolError: not a message.
    """
    try:
        return _to_worker.decode(payload)
    except NOT_A_MESSAGE as error:
        raise ProtocolError("not a message to a worker") from error


def decode_from_worker(payload: bytes) -> FromWorker:
    """Decode what a worker sent.

    Raises:
        ProtocolError: not a message.
    """
    try:
        return _from_worker.decode(payload)
    except NOT_A_MESSAGE as error:
        raise ProtocolError("not a message from a worker") from error


def _array(data: bytes, dtype: str) -> NDArray[Any]:
    """Return the bytes as a read-only array."""
    if len(data) % np.dtype(dtype).itemsize:
        raise ProtocolError("a number is cut short")
    return np.frombuffer(data, dtype=dtype)
