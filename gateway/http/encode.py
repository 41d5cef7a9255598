"""From vectors to the bytes of a response, once, without a Python float in between."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
import orjson

from backends.base import Vectors
from gateway.http.wire import ErrorDetail

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


def encode_response(
    vectors: Vectors,
    errors: Mapping[int, ErrorDetail],
    *,
    inputs: int,
    model: str,
    tokens: int,
    encoding_format: EncodingFormat,
) -> bytes:
    """Return the response as JSON.

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
    good = [index for index in range(inputs) if index not in errors]
    if not np.isfinite(vectors[good]).all():
        raise ValueError("a vector is not finite")
    write = _base64 if encoding_format == "base64" else _floats
    raw = dict(zip(good, write(vectors[good]), strict=True))
    data = [
        EmbeddingError(index, errors[index]) if index in errors else Embedding(index, raw[index])
        for index in range(inputs)
    ]
    return msgspec.json.encode(EmbeddingResponse(data, model, Usage(tokens, tokens)))


def _base64(vectors: Vectors) -> Sequence[msgspec.Raw]:
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    return [msgspec.Raw(b'"%b"' % base64.b64encode(row.data)) for row in rows]


def _floats(vectors: Vectors) -> Sequence[msgspec.Raw]:
    # orjson writes float32 in its shortest form that reads back to the same float32
    return [msgspec.Raw(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)) for row in vectors]
