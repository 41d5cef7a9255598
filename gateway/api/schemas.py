"""What clients send: headers and bodies, decoded and checked as far as that needs no model.

An error names the field, as ``input[17]``. Responses are in ``encode`` and ``errors``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, NoReturn, cast

import msgspec

from embeddings_gateway.config import InputType, Truncate
from embeddings_gateway.errors import GatewayError, InvalidJson, InvalidRequest, WrongContentType
from embeddings_gateway.serving.served import IdLists, InputLimits, Texts

TIMEOUT_HEADER = "x-request-timeout-ms"
_TIMEOUT = TIMEOUT_HEADER.encode()


def deadline_of(fields: Mapping[bytes, bytes], arrived: float, max_seconds: float) -> float:
    """Return when a request has to be done, in monotonic seconds.

    Args:
        fields: its headers.
        arrived: when its head was complete; monotonic seconds.
        max_seconds: the gateway's own limit.

    Raises:
        InvalidRequest: the client's limit is no whole number of milliseconds, or 0.
    """
    value = fields.get(_TIMEOUT)
    if value is None:
        return arrived + max_seconds
    if not value.isdigit() or not value.strip(b"0"):
        message = "The time for a request is a whole number of milliseconds, at least 1."
        raise InvalidRequest(message, TIMEOUT_HEADER)
    return arrived + min(float(value) / 1000, max_seconds)  # a float takes any number of digits


def check_content(fields: Mapping[bytes, bytes]) -> None:
    """Check that a body is declared as plain JSON.

    Raises:
        WrongContentType: it is not.
    """
    if fields.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise WrongContentType("The body has to be application/json; say so in Content-Type.")
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise WrongContentType("The body must not be compressed.")


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


class Inputs(NamedTuple):
    """What a request asks to be embedded.

    Attributes:
        inputs: texts, or lists of token ids.
        errors: input -> what is wrong with it; empty unless partial results are asked for.
    """

    inputs: Texts | IdLists
    errors: dict[int, GatewayError]


class Decoder:
    """Turns a body into a checked request. Built once."""

    def __init__(self, strict: bool) -> None:
        self._decoder: msgspec.json.Decoder[EmbeddingRequest] = msgspec.json.Decoder(
            StrictEmbeddingRequest if strict else EmbeddingRequest
        )

    def decode(self, body: bytes | bytearray) -> EmbeddingRequest:
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


def _refuse(message: str) -> NoReturn:
    """Raise a message of msgspec: with the field as ``param``, never with a value that was sent."""
    path = _AT_PATH.search(message)
    problem = _AT_PATH.sub("", message)
    if missing := _MISSING.match(problem):
        raise InvalidRequest("The field is missing.", missing["name"])
    if problem.startswith("Object contains unknown field"):
        raise InvalidRequest("There is a field that is not known, and the gateway is strict.")
    if not _EXPECTED.match(problem):
        problem = "The value is none that this field takes; /docs lists them"
    raise InvalidRequest(f"{problem}.", path["path"] if path else None)


def inputs_of(request: EmbeddingRequest, max_inputs: int, limits: InputLimits) -> Inputs:
    """Return the inputs as a list of texts or a list of lists of token ids.

    Args:
        request: what was sent.
        max_inputs: how many there may be.
        limits: bounds on each of them.

    Raises:
        InvalidRequest: no input, too many, or kinds mixed; or one with a fault of its own,
            unless partial results are asked for.
    """
    sent = request.input
    single = isinstance(sent, str) or (bool(sent) and isinstance(sent[0], int))
    inputs = cast("list[str]", [sent] if single else sent)  # or ids; checked below
    if not 1 <= len(inputs) <= max_inputs:
        raise InvalidRequest(f"A request has 1 to {max_inputs} inputs, not {len(inputs)}.", "input")
    if single and isinstance(sent, list):
        _check_ids(sent)
    lengths = list(map(len, inputs)) if len(set(map(type, inputs))) == 1 else [0]
    longest = limits.max_chars if isinstance(inputs[0], str) else limits.max_ids
    if min(lengths) > 0 and max(lengths) <= longest:
        return Inputs(inputs, {})
    return Inputs(inputs, _faults_of(inputs, limits, single, bool(request.partial)))


def _faults_of(
    inputs: Sequence[str | int | list[int]], limits: InputLimits, single: bool, partial: bool
) -> dict[int, GatewayError]:
    """Look at each input, because one is wrong; return what is wrong, or raise it."""
    errors: dict[int, GatewayError] = {}
    for index, entry in enumerate(inputs):
        where = "input" if single else f"input[{index}]"
        if type(entry) is not type(inputs[0]):
            raise InvalidRequest("All inputs have to be of one kind: texts, or arrays of token ids.", where)
        fault = limits.error(cast("str | list[int]", entry))
        if fault is not None and not partial:
            raise fault.about(where)
        if fault is not None:
            errors[index] = fault.about(where)
    return errors


def _check_ids(ids: list[str | int | list[int]]) -> None:
    """Refuse an array of token ids that holds something else."""
    if set(map(type, ids)) == {int}:
        return
    for index, entry in enumerate(ids):
        if not isinstance(entry, int):
            raise InvalidRequest("An array of token ids holds nothing else.", f"input[{index}]")
