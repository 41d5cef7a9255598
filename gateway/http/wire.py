"""OpenAI's shapes: the request, decoded and checked as far as that needs no model, and the error object.

What a client sent wrong is told by field, as ``input[17]``. A success is the business of ``encode``.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple, NoReturn, cast

import msgspec

from embeddings_gateway.config import InputType, Truncate
from embeddings_gateway.errors import GatewayError, InvalidJson, InvalidRequest
from embeddings_gateway.serving.ask import IdLists, InputLimits, Texts, fault_of


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /v1/embeddings``: OpenAI's fields, then ours. Unknown fields are ignored."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    user: str | None = None
    truncate: Truncate | None = None
    input_type: InputType | None = None
    partial: bool | None = None


class StrictEmbeddingRequest(EmbeddingRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same, refusing fields it does not know."""


class WireLimits(NamedTuple):
    """Bounds on a request that hold for every model.

    Attributes:
        max_inputs: inputs of one request.
        each: bounds on one of them.
    """

    max_inputs: int
    each: InputLimits


class Inputs(NamedTuple):
    """What a request asks to be embedded.

    Attributes:
        given: texts, or lists of token ids.
        refused: input -> what is wrong with it; empty unless partial results are asked for.
    """

    given: Texts | IdLists
    refused: dict[int, GatewayError]


class ErrorDetail(msgspec.Struct, frozen=True):
    """OpenAI's error object. All four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class Decoder:
    """Turns a body into a checked request. Built once."""

    def __init__(self, strict: bool) -> None:
        self._decoder: msgspec.json.Decoder[EmbeddingRequest] = msgspec.json.Decoder(
            StrictEmbeddingRequest if strict else EmbeddingRequest
        )

    def decode(self, body: bytes) -> EmbeddingRequest:
        """Return the request in ``body``.

        Raises:
            InvalidJson: not one JSON document in UTF-8, or nested too deep.
            InvalidRequest: a field is missing, of the wrong type or out of range.
        """
        try:
            return self._decoder.decode(body.decode())  # msgspec would not look into fields it skips
        except msgspec.ValidationError as error:
            _refuse(str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise InvalidJson("The body is not one valid JSON document in UTF-8.") from None


_AT_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<name>\w+)`$")
_EXPECTED = re.compile(r"^Expected [^'\"]*$")


def _refuse(said: str) -> NoReturn:
    """Raise what msgspec said of a body: with the field as ``param``, never with a value that was sent."""
    path = _AT_PATH.search(said)
    what = _AT_PATH.sub("", said)
    if missing := _MISSING.match(what):
        raise InvalidRequest("The field is missing.", missing["name"])
    if what.startswith("Object contains unknown field"):
        raise InvalidRequest("There is a field that is not known, and the gateway is strict.")
    told = what if _EXPECTED.match(what) else "The value is none that this field takes; /docs lists them"
    raise InvalidRequest(f"{told}.", path["path"] if path else None)


def inputs_of(request: EmbeddingRequest, limits: WireLimits) -> Inputs:
    """Return the inputs as a list of texts or a list of lists of token ids.

    Raises:
        InvalidRequest: no input, too many, or kinds mixed; or one that :func:`fault_of` finds a fault in,
            unless partial results are asked for.
    """
    given = request.input
    single = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    inputs = [given] if single else given
    if not 1 <= len(inputs) <= limits.max_inputs:
        raise InvalidRequest(f"A request has 1 to {limits.max_inputs} inputs, not {len(inputs)}.", "input")
    kind = type(inputs[0])
    refused: dict[int, GatewayError] = {}
    for index, one in enumerate(inputs):
        where = "input" if single else f"input[{index}]"
        if type(one) is not kind:
            raise InvalidRequest("All inputs have to be of one kind: texts, or arrays of token ids.", where)
        fault = fault_of(cast(str | list[int], one), limits.each)
        if fault is not None and not request.partial:
            raise fault.about(where)
        if fault is not None:
            refused[index] = fault.about(where)
    if single and not isinstance(given, str):
        _check_all_ids(given)
    return Inputs(cast(Texts | IdLists, inputs), refused)


def _check_all_ids(ids: list[str | int | list[int]]) -> None:
    for index, one in enumerate(ids):
        if not isinstance(one, int):
            raise InvalidRequest("An array of token ids holds nothing else.", f"input[{index}]")
