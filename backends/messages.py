"""The messages between the gateway and a worker, and their frames on the socket.

A frame is a length (4 bytes, little-endian) and that many bytes of msgpack. Columns travel as raw bytes,
little-endian: ids as int32, values as float32. The gateway sends ``Start`` first, and the worker replies
``Ready`` or ``Refused``. Then the gateway sends requests, each with an id that its reply carries; replies may
come in any order.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Batch, Column, ModelInfo, Output, Part
from embeddings_gateway.backends.spec import Spec

FRAME_BYTES_MAX = 1 << 30
HEADER = struct.Struct("<I")
T = TypeVar("T")

if TYPE_CHECKING:
    Bytes = bytes | memoryview
else:
    Bytes = bytes
"""Decoded as ``bytes``, a copy whose numbers are aligned; encoded from the arrays themselves."""


class ProtocolError(Exception):
    """A frame that no correct peer sends."""


class PackedBatch(msgspec.Struct, frozen=True, array_like=True):
    """A :class:`Batch` on the wire: int32 ``lengths``, ``ids`` and, for pairs, ``segments``."""

    lengths: Bytes
    ids: Bytes
    segments: Bytes | None = None

    @classmethod
    def of(cls, batch: Batch) -> PackedBatch:
        """Pack a batch, without copying it."""
        return cls(_bytes(batch.lengths, "<i4"), _bytes(batch.ids, "<i4"), _bytes(batch.segments, "<i4"))

    def unpack(self) -> Batch:
        """Return the batch as read-only views.

        Raises:
            ProtocolError: the lengths do not add up to the ids, or ids and segments differ in number.
        """
        lengths, ids, segments = (_array(data, "<i4") for data in (self.lengths, self.ids, self.segments))
        if lengths.min(initial=0) < 0 or lengths.sum(dtype=np.int64) != len(ids):
            raise ProtocolError("lengths and ids disagree")
        if segments is not None and len(segments) != len(ids):
            raise ProtocolError("segments and ids disagree")
        return Batch(ids, lengths, segments)


class PackedColumn(msgspec.Struct, frozen=True, array_like=True):
    """A :class:`Column` on the wire: float32 ``values`` row by row, int64 ``offsets``, int32 ``indices``."""

    width: int
    values: Bytes
    offsets: Bytes | None = None
    indices: Bytes | None = None

    @classmethod
    def of(cls, column: Column) -> PackedColumn:
        """Pack a column; its values are copied only where they are not contiguous."""
        values, offsets = _bytes(column.values, "<f4"), _bytes(column.offsets, "<i8")
        return cls(column.values.shape[1], values, offsets, _bytes(column.indices, "<i4"))

    def unpack(self) -> Column:
        """Return the column as read-only views.

        Raises:
            ProtocolError: the width does not fit the values, or offsets or indices do not fit the rows.
        """
        flat = _array(self.values, "<f4")
        if not 1 <= self.width <= FRAME_BYTES_MAX or len(flat) % self.width:
            raise ProtocolError("width and values disagree")
        values = flat.reshape(-1, self.width)
        offsets, indices = _array(self.offsets, "<i8"), _array(self.indices, "<i4")
        if offsets is not None and not _spans(offsets, len(values)):
            raise ProtocolError("offsets and values disagree")
        if indices is not None and len(indices) != len(values):
            raise ProtocolError("indices and values disagree")
        return Column(values, offsets, indices)


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Load this model; the first frame, sent once."""

    spec: Spec


class Numbered(msgspec.Struct, frozen=True):
    """A request or a reply. The reply has the id of its request."""

    id: int


class Tokenize(Numbered, frozen=True, tag="tokenize"):
    """Answered by ``Tokens`` or ``Failed``. ``part``: the only text is a part of a longer one."""

    texts: list[str]
    text_pairs: list[str] | None = None
    part: Part | None = None


class Cancel(Numbered, frozen=True, tag="cancel"):
    """Nobody waits any more for the ``Tokenize`` of this id.

    If the worker has not begun it, it never does, and replies ``Failed``. Otherwise it ignores this.
    """


class Run(Numbered, frozen=True, tag="run"):
    """Compute these outputs of a batch; answered by ``Ran`` or ``Failed``."""

    outputs: tuple[Output, ...]
    batch: PackedBatch


class Ping(Numbered, frozen=True, tag="ping"):
    """Answered by ``Pong``, also while a batch is computed."""


class Check(Numbered, frozen=True, tag="check"):
    """Run the self-test again, or one probe of it if ``brief``; answered by ``Checked`` or ``Failed``."""

    brief: bool = False


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded, which took ``seconds``, and has passed its self-test.

    ``tokens_per_s`` is the speed of a small batch. ``reference`` has the outputs of the self-test's probes.
    """

    info: ModelInfo
    seconds: float
    tokens_per_s: float
    reference: dict[Output, PackedColumn]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The model cannot be served; starting again would not help. The worker ends."""

    reason: str


class Tokens(Numbered, frozen=True, tag="tokens"):
    """The ids of each text of a ``Tokenize``, in order.

    ``declined``: text -> why the tokenizer cannot take it, without the text itself. Such a text has no ids.
    ``certain``: begin and end of the characters that the ids are of, for a part of a longer text.
    """

    batch: PackedBatch
    declined: dict[int, str] = {}
    certain: tuple[int, int] | None = None


class Ran(Numbered, frozen=True, tag="ran"):
    """The columns of a ``Run``; ``seconds`` are the engine's own."""

    columns: dict[Output, PackedColumn]
    seconds: float

    @classmethod
    def of(cls, call_id: int, columns: Mapping[Output, Column], seconds: float) -> Ran:
        """Pack the columns."""
        return cls(call_id, {name: PackedColumn.of(column) for name, column in columns.items()}, seconds)

    def unpack(self) -> dict[Output, Column]:
        """Return the columns; a :class:`ProtocolError` if one of them is not consistent."""
        return {name: column.unpack() for name, column in self.columns.items()}


class Failed(Numbered, frozen=True, tag="failed"):
    """The call failed; the worker is still usable.

    ``reason`` never contains a user's text. ``memory``: whether there was too little memory for the call.
    """

    reason: str
    memory: bool = False


class Checked(Numbered, frozen=True, tag="checked"):
    """What is wrong with the model; empty if nothing is."""

    problem: str


class Outdated(msgspec.Struct, frozen=True, tag="outdated"):
    """A file that the model was loaded from has been changed. The worker computes nothing more."""

    file: str


class Pong(Numbered, frozen=True, tag="pong"):
    """The worker is alive; ``busy_seconds`` is how long the batch being computed has run, 0 when idle."""

    busy_seconds: float


Request = Tokenize | Run | Check | Ping
ToWorker = Start | Request | Cancel
WorkerReply = Tokens | Ran | Checked | Failed | Pong
FromWorker = Ready | Refused | Outdated | WorkerReply

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode_frame(message: ToWorker | FromWorker) -> bytearray:
    """Return the message as one frame, into which large columns are copied once."""
    frame = bytearray(HEADER.size)
    _encoder.encode_into(message, frame, HEADER.size)
    HEADER.pack_into(frame, 0, len(frame) - HEADER.size)
    return frame


def payload_length(header: bytes | memoryview) -> int:
    """Return how many bytes follow this header; a :class:`ProtocolError` above ``FRAME_BYTES_MAX``."""
    (length,) = HEADER.unpack(header)
    if length > FRAME_BYTES_MAX:
        raise ProtocolError(f"a frame of {length} bytes")
    return int(length)


def decode_to_worker(payload: bytes) -> ToWorker:
    """Decode what the gateway sent; a :class:`ProtocolError` if it is not a message to a worker."""
    return _decode(_to_worker, payload)


def decode_from_worker(payload: bytes | memoryview) -> FromWorker:
    """Decode what a worker sent; a :class:`ProtocolError` if it is not a message from one."""
    return _decode(_from_worker, payload)


def _decode(decoder: msgspec.msgpack.Decoder[T], payload: bytes | memoryview) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("not a message that the other side sends") from error


def _bytes(array: NDArray[Any] | None, dtype: str) -> Any:
    """Return the array's bytes in C order, copied only if they are in another order; ``None`` for ``None``."""
    return None if array is None else np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data


def _array(data: Bytes | None, dtype: str) -> Any:
    """Return the bytes as a read-only array; ``None`` for ``None``."""
    if data is None:
        return None
    if len(data) % np.dtype(dtype).itemsize:
        raise ProtocolError("a number is cut short")
    return np.frombuffer(data, dtype=dtype)


def _spans(offsets: NDArray[np.int64], rows: int) -> bool:
    """Return whether offsets ascend from 0 to the number of rows."""
    ascend = bool((offsets[1:] >= offsets[:-1]).all())
    return len(offsets) > 0 and ascend and offsets[0] == 0 and offsets[-1] == rows
