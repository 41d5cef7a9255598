"""The headers and bodies that clients send, checked as far as possible without a model.

``decode`` decodes. An error names the field, as ``input[17]``. Responses are in ``encode`` and ``errors``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, cast, get_args

import msgspec

from embeddings_gateway.config import InputType, Truncate
from embeddings_gateway.errors import GatewayError, InvalidRequest, WrongContentType
from embeddings_gateway.serving.served import IdLists, InputLimits, Texts

TIMEOUT_HEADER = "x-request-timeout-ms"
_TIMEOUT = TIMEOUT_HEADER.encode()


def deadline_of(fields: Mapping[bytes, bytes], arrived: float, max_seconds: float) -> float:
    """Return the deadline of a request, in monotonic seconds.

    Args:
        fields: the headers.
        arrived: when the head was complete, in monotonic seconds.
        max_seconds: the gateway's own limit.

    Raises:
        InvalidRequest: the client's limit is not a positive whole number of milliseconds.
    """
    value = fields.get(_TIMEOUT)
    if value is None:
        return arrived + max_seconds
    if not value.isdigit() or not value.strip(b"0"):
        raise InvalidRequest(
            "The time for a request is a whole number of milliseconds, at least 1.", TIMEOUT_HEADER
        )
    return arrived + min(float(value) / 1000, max_seconds)  # int() would refuse thousands of digits


def check_content(fields: Mapping[bytes, bytes]) -> None:
    """Raise WrongContentType unless a body is declared as plain JSON."""
    if fields.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise WrongContentType("The body has to be application/json; say so in Content-Type.")
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise WrongContentType("The body must not be compressed.")


AnyTruncate = Annotated[
    Literal["error", "right", "left", "mean", "NONE", "END", "START"] | bool,
    msgspec.Meta(
        description="error (NONE or false), right (END or true), left (START) or mean: "
        "what happens to an input that is too long"
    ),
]
AnyInputType = Annotated[
    Literal["query", "document", "search_query", "search_document", "passage"],
    msgspec.Meta(
        description="query (search_query) or document (search_document, passage): which of the model's prompts "
        "is put before each text"
    ),
]
TRUNCATE: Mapping[str | bool | None, Truncate | None] = {
    None: None,
    **{word: word for word in get_args(Truncate)},
    "NONE": "error",
    "END": "right",
    "START": "left",
    False: "error",
    True: "right",
}
"""What Cohere's, NVIDIA's, Jina's and others' clients send as ``truncate`` -> what it means here."""

INPUT_TYPE: Mapping[str | None, InputType | None] = {
    None: None,
    **{word: word for word in get_args(InputType)},
    "search_query": "query",
    "search_document": "document",
    "passage": "document",
}
"""The same for ``input_type``."""


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /v1/embeddings``: OpenAI's fields, then ours. Unknown fields are ignored."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    user: str | None = None
    truncate: AnyTruncate | None = None
    input_type: AnyInputType | None = None
    partial: bool | None = None


FIELDS = {field.name: field.type for field in msgspec.structs.fields(EmbeddingRequest)}


class StrictEmbeddingRequest(EmbeddingRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same, but unknown fields are refused."""


class Inputs(NamedTuple):
    """The inputs of a request: texts or lists of token ids.

    Attributes:
        errors: input -> its error; empty unless the client asked for partial results.
    """

    inputs: Texts | IdLists
    errors: dict[int, GatewayError]


def inputs_of(request: EmbeddingRequest, max_inputs: int, limits: InputLimits) -> Inputs:
    """Return the inputs as a list of texts or a list of lists of token ids.

    Args:
        request: the decoded body.
        max_inputs: limit on the number of inputs.
        limits: limits on each input.

    Raises:
        InvalidRequest: there are no inputs, too many, or mixed kinds; or an input is invalid, and the client
            did not ask for partial results.
    """
    sent = request.input
    single = isinstance(sent, str) or (bool(sent) and isinstance(sent[0], int))
    # Or lists of ids; ``_find_errors`` refuses mixtures.
    inputs = cast("list[str]", [sent] if single else sent)
    if not 1 <= len(inputs) <= max_inputs:
        raise InvalidRequest(f"A request has 1 to {max_inputs} inputs, not {len(inputs)}.", "input")
    if single and isinstance(sent, list):
        _check_ids(sent)
    lengths = list(map(len, inputs)) if len(set(map(type, inputs))) == 1 else [0]  # 0: see ``_find_errors``
    max_length = limits.max_chars if isinstance(inputs[0], str) else limits.max_ids
    if min(lengths) > 0 and max(lengths) <= max_length:
        return Inputs(inputs, {})
    return Inputs(inputs, _find_errors(inputs, limits, single, bool(request.partial)))


def _find_errors(
    inputs: Sequence[str | int | list[int]], limits: InputLimits, single: bool, partial: bool
) -> dict[int, GatewayError]:
    """Return the errors of the inputs, of which at least one is invalid; without ``partial`` raise the first."""
    errors: dict[int, GatewayError] = {}
    for index, entry in enumerate(inputs):
        where = "input" if single else f"input[{index}]"
        if type(entry) is not type(inputs[0]):
            raise InvalidRequest("All inputs have to be of one kind: texts, or arrays of token ids.", where)
        error = limits.error(cast("str | list[int]", entry))
        if error is None:
            continue
        if not partial:
            raise error.about(where)
        errors[index] = error.about(where)
    return errors


def _check_ids(ids: list[str | int | list[int]]) -> None:
    """Refuse an array of token ids that contains something else."""
    if set(map(type, ids)) == {int}:
        return
    for index, entry in enumerate(ids):
        if not isinstance(entry, int):
            raise InvalidRequest("An array of token ids holds nothing else.", f"input[{index}]")
