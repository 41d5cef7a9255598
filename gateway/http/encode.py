"""From vectors to the bytes of a response, once, without a Python float in between."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Vectors
from embeddings_gateway.http.wire import ErrorDetail
from embeddings_gateway.serving.pace import Pace

EncodingFormat = Literal["float", "base64"]

VECTOR_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"type": "number"}},
        {"type": "string", "contentEncoding": "base64"},
    ]
}


class Usage(msgspec.Struct, frozen=True):
    """What the request cost, in tokens the model saw, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True, tag_field="object", tag="embedding"):
    """One vector: a list of floats, or the base64 of its little-endian float32 bytes."""

    index: int
    embedding: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema=VECTOR_SCHEMA)]


class EmbeddingError(msgspec.Struct, frozen=True, tag_field="object", tag="embedding_error"):
    """What stands in the place of an input that failed, where the client asked for partial results."""

    index: int
    error: ErrorDetail


class EmbeddingResponse(msgspec.Struct, frozen=True, tag_field="object", tag="list"):
    """The body of a success. ``data[i]`` belongs to ``input[i]``, always."""

    data: list[Embedding | EmbeddingError]
    model: str
    usage: Usage


NOT_FINITE = "a vector is not finite"

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
    """Return the response as JSON, in pieces of bounded size; between two of them the event loop turns.

    Args:
        vectors: float32 ``[inputs, dimensions]``; the rows of failed inputs are not looked at.
        errors: what is told instead of a vector, by input.
        inputs: how many were asked for.
        model: the name of the served model.
        tokens: what the model saw of the whole request.
        encoding_format: how a vector is written.

    Raises:
        ValueError: there is not one row for each input, or one that is to be told is not finite.
    """
    if len(vectors) != inputs:
        raise ValueError(f"{len(vectors)} vectors for {inputs} inputs")
    write = _base64 if encoding_format == "base64" else _floats
    around = _encoder.encode(EmbeddingResponse([], model, Usage(tokens, tokens)))
    begin, end = around.split(b"[]", 1)  # of ``data``, which comes before anything that a name could stand in
    pieces, piece = [], [begin, b"["]
    pace = Pace()
    for index, row in enumerate(vectors):
        entry = EmbeddingError(index, errors[index]) if index in errors else Embedding(index, write(row))
        piece += b"," if index else b"", _encoder.encode(entry)
        if await pace.after(len(row)):
            pieces.append(b"".join(piece))
            piece = []
    return [*pieces, b"".join([*piece, b"]", end])]


def _base64(row: NDArray[np.float32]) -> msgspec.Raw:
    if not np.isfinite(row).all():
        raise ValueError(NOT_FINITE)
    return msgspec.Raw(b'"%b"' % base64.b64encode(np.ascontiguousarray(row, dtype="<f4").data))


def _floats(row: NDArray[np.float32]) -> msgspec.Raw:
    # orjson writes float32 in its shortest form that reads back to the same float32, and null if not finite
    written = orjson.dumps(np.ascontiguousarray(row), option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in written:
        raise ValueError(NOT_FINITE)
    return msgspec.Raw(written)
