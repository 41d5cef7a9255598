"""Encodes vectors as the bytes of a response, block by block, without making Python floats."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
import orjson
import pybase64

from embeddings_gateway.api.errors import ErrorDetail
from embeddings_gateway.backends.base import Vectors

EncodingFormat = Literal["float", "base64"]

VECTOR_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"type": "number"}},
        {"type": "string", "contentEncoding": "base64"},
    ]
}

BLOCK_NUMBERS: dict[EncodingFormat, int] = {"float": 32_768, "base64": 262_144}
"""Numbers in one block. Encoding it takes about half a millisecond; then the event loop runs other tasks."""

NUMBER_BYTES: dict[EncodingFormat, float] = {"float": 13.0, "base64": 16 / 3}
"""Bytes of one number of a vector: in decimal digits, with a comma, or as four bytes in base64."""

ENTRY_BYTES = 64
"""Bytes of an entry without its vector."""


def response_bytes(inputs: int, dimensions: int, encoding_format: EncodingFormat) -> int:
    """Return about how many bytes a response will have."""
    return inputs * math.ceil(ENTRY_BYTES + dimensions * NUMBER_BYTES[encoding_format])


class Usage(msgspec.Struct, frozen=True):
    """Tokens that the model saw, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True, tag_field="object", tag="embedding"):
    """One vector: a list of floats, or the base64 of its little-endian float32 bytes."""

    index: int
    embedding: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema=VECTOR_SCHEMA)]


class EmbeddingError(msgspec.Struct, frozen=True, tag_field="object", tag="embedding_error"):
    """The entry of an input that failed, if the client asked for partial results."""

    index: int
    error: ErrorDetail


class EmbeddingResponse(msgspec.Struct, frozen=True, tag_field="object", tag="list"):
    """The body of a successful response. ``data[i]`` belongs to ``input[i]``."""

    data: list[Embedding | EmbeddingError]
    model: str
    usage: Usage


_encoder = msgspec.json.Encoder()


async def encode_response(
    vectors: Vectors,
    errors: Mapping[int, ErrorDetail],
    *,
    inputs: int,
    model: str,
    tokens: int,
    encoding_format: EncodingFormat,
) -> list[bytes]:
    """Return the response as JSON, in pieces of bounded size. Other tasks run between two pieces.

    Args:
        vectors: float32 ``[inputs, dimensions]``; rows of failed inputs are ignored.
        errors: input -> its error, which replaces the vector.
        inputs: number of inputs of the request.
        model: name of the served model.
        tokens: tokens of the request that the model saw.
        encoding_format: the form of a vector.

    Raises:
        ValueError: the number of rows differs from ``inputs``, or a row is not finite.
    """
    if len(vectors) != inputs:
        raise ValueError(f"{len(vectors)} vectors for {inputs} inputs")
    without_data = _encoder.encode(EmbeddingResponse([], model, Usage(tokens, tokens)))
    begin, end = without_data.split(b"[]", 1)  # the first is that of ``data``; the model's name comes later
    encode = _encode_base64 if encoding_format == "base64" else _encode_floats
    rows = max(1, BLOCK_NUMBERS[encoding_format] // vectors.shape[1])
    pieces = [begin + b"["]
    for first in range(0, inputs, rows):
        if first:
            await asyncio.sleep(0)
        pieces.append(_entries(vectors[first : first + rows], first, errors, encode))
    pieces[1] = pieces[0] + pieces[1]
    pieces[-1] += b"]" + end
    return pieces[1:]


def _entries(
    block: Vectors, first: int, errors: Mapping[int, ErrorDetail], encode: Callable[[Vectors], list[bytes]]
) -> bytes:
    """Return the entries of a block of rows; ``first`` is the input of its first row."""
    failed = [index for index in errors if 0 <= index - first < len(block)]
    if failed:
        block = block.copy()
        block[[index - first for index in failed]] = 0  # so that the block is finite
    if not np.isfinite(block).all():
        raise ValueError("a vector is not finite")
    rows = encode(np.ascontiguousarray(block, dtype="<f4"))
    entries = [b'{"object":"embedding","index":%d,"embedding":%b}' % row for row in enumerate(rows, first)]
    for index in failed:
        entries[index - first] = _encoder.encode(EmbeddingError(index, errors[index]))
    return (b"," if first else b"") + b",".join(entries)


def _encode_base64(block: Vectors) -> list[bytes]:
    """Return the base64 of each row: encoded as one block, if no character has bits of two rows."""
    row_bytes = block.shape[1] * 4
    if row_bytes % 3:
        return [b'"%b"' % pybase64.b64encode(row.data) for row in block]
    characters = row_bytes // 3 * 4
    encoded = pybase64.b64encode(block.data)
    return [b'"%b"' % encoded[at : at + characters] for at in range(0, len(encoded), characters)]


def _encode_floats(block: Vectors) -> list[bytes]:
    """Return each row as JSON. orjson writes the shortest form that gives the same float32."""
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in block]
