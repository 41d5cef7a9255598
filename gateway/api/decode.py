"""Decodes the bodies of requests for embeddings: small ones at once, large ones piece by piece.

While a body is decoded, nothing else runs. So a large one is decoded in turns, and refused as soon as it has more
inputs or token ids than a request may have.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn, Self, TypeVar, cast

import msgspec

from embeddings_gateway.allowed_values import describe
from embeddings_gateway.api.json_pieces import Cutter, Piece, Place
from embeddings_gateway.api.schemas import FIELDS, EmbeddingRequest, StrictEmbeddingRequest
from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import InvalidJson, InvalidRequest, TooManyTokens

MAX_AT_ONCE = 1 << 19
"""Bytes of a body that is decoded at once, if it has few values. That takes up to 4 ms, commonly 0.2 ms."""

MAX_VALUES_AT_ONCE = 1 << 14
"""Commas and brackets of a body that is decoded at once: not many more than it has values. A list costs 0.2 us."""

SLICE_BYTES = 1 << 16
"""Bytes of a larger body that are decoded before other tasks run."""

T = TypeVar("T")
Entries = list[str | int | list[int]]
Input = str | Entries

WHOLE = frozenset(FIELDS) - {"input", "user"}
"""The fields whose values are never cut. Of ``user`` only the type counts."""

_AT_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<name>\w+)`$")
_EXPECTED = re.compile(r"^Expected [^'\"]*$")
_INDEX = re.compile(r"\[(\d+)\]")

_input = msgspec.json.Decoder(Input)


class Decoder:
    """Decodes bodies. Built once; belongs to one event loop."""

    def __init__(self, server: ServerConfig) -> None:
        self._limits = server
        struct = StrictEmbeddingRequest if server.strict else EmbeddingRequest
        self._with_model = Decoders.of(struct)
        self._without_model = Decoders.of(_without_model(struct))
        self._turn = asyncio.Lock()

    def decode(self, body: bytes | bytearray, *, needs_model: bool = True) -> EmbeddingRequest:
        """Return the request in ``body``.

        Args:
            body: the whole body.
            needs_model: whether ``model`` has to be there: not if the path says it.

        Raises:
            InvalidJson: the body is not one JSON document in UTF-8, or nested too deep.
            InvalidRequest: a field is missing, of the wrong type or out of range.
        """
        return _decode(self._decoders(needs_model).whole, body, _refuse)

    async def decode_any(self, body: bytearray, *, needs_model: bool = True) -> EmbeddingRequest:
        """Return the request in a body of any size.

        Raises:
            InvalidJson, InvalidRequest: see :meth:`decode`.
        """
        is_small = len(body) <= SLICE_BYTES or (
            len(body) <= MAX_AT_ONCE and _values(body) <= MAX_VALUES_AT_ONCE
        )
        if is_small:
            return self.decode(body, needs_model=needs_model)
        return await self.decode_in_turns(body, SLICE_BYTES, needs_model=needs_model)

    async def decode_in_turns(
        self, body: bytearray, slice_bytes: int, *, needs_model: bool = True
    ) -> EmbeddingRequest:
        """Return the request in a body. Other tasks run between two slices of it.

        All large bodies take turns, so that many of them hold the event loop no longer than one.

        Raises:
            InvalidJson, InvalidRequest: see :meth:`decode`; or there are too many inputs or token ids.
        """
        cutter = Cutter("input", WHOLE)
        request = RequestInPieces(self._decoders(needs_model), self._limits)
        for begin in range(0, len(body), slice_bytes):
            async with self._turn:
                for piece in _cut(cutter, bytes(body[begin : begin + slice_bytes])):
                    request.add(piece)
                await asyncio.sleep(0)  # the others wait, so that one slice is decoded in a turn of the loop
        for piece in cutter.end():
            request.add(piece)
        return request.whole()

    def _decoders(self, needs_model: bool) -> Decoders:
        return self._with_model if needs_model else self._without_model


class Decoders(NamedTuple):
    """The decoders of a kind of request: of whole bodies, and of pieces with some of the fields."""

    whole: msgspec.json.Decoder[EmbeddingRequest]
    some_fields: msgspec.json.Decoder[msgspec.Struct]

    @classmethod
    def of(cls, struct: type[EmbeddingRequest]) -> Self:
        """Return the decoders of requests of a type."""
        return cls(msgspec.json.Decoder(struct), msgspec.json.Decoder(some_fields(struct)))


class RequestInPieces:
    """A request whose body is decoded piece by piece.

    Args:
        decoders: of this kind of request.
        limits: on the inputs.
    """

    def __init__(self, decoders: Decoders, limits: ServerConfig) -> None:
        self._decoders = decoders
        self._limits = limits
        self._fields: dict[str, Any] = {}
        self._input: JoinedInput | None = None

    def add(self, piece: Piece) -> None:
        """Decode and add the next piece.

        Raises:
            InvalidJson, InvalidRequest: see :meth:`Decoder.decode_in_turns`.
        """
        if piece.begin.field == "input" and self._input is not None:
            self._input.extend(piece)
            return
        some_fields = _decode(self._decoders.some_fields, piece.document, _refuse)
        for name in FIELDS:
            if (value := getattr(some_fields, name)) is not msgspec.UNSET:
                self._fields[name] = value
        if "input" in self._fields:
            self._input = JoinedInput(self._limits, self._fields.pop("input"))

    def whole(self) -> EmbeddingRequest:
        """Return the request, once all pieces were added.

        Raises:
            InvalidRequest: a field is missing.
        """
        if self._input is not None:
            self._fields["input"] = self._input.whole()
        struct = self._decoders.whole.type
        for field in msgspec.structs.fields(struct):
            if field.required and field.name not in self._fields:
                raise InvalidRequest("The field is missing.", field.name)
        return struct(**self._fields)


class JoinedInput:
    """The value of ``input``, joined from parts. Of an input that is too long, only so much is kept as shows it.

    Args:
        limits: on the inputs.
        value: the first part.
    """

    def __init__(self, limits: ServerConfig, value: Input) -> None:
        self._limits = limits
        self._is_text = isinstance(value, str)
        self._entries: Entries = [value] if isinstance(value, str) else value
        self._text: list[str] = []  # the parts of the last entry, if it is a text of several
        self._check()

    def extend(self, piece: Piece) -> None:
        """Decode and add the next part.

        Raises:
            InvalidJson, InvalidRequest: it is invalid, or there are too many inputs or token ids.
        """
        begin = piece.begin
        more: Input = _decode(_input, piece.document, partial(self._refuse, begin))
        first, rest = (more, []) if isinstance(more, str) else (more[0], more[1:])
        if isinstance(first, str):
            self._extend_text(first)
        elif isinstance(first, list):
            cast("list[int]", self._entries[-1]).extend(first[1:])
        if rest:
            self._end_text()
            self._entries += rest
        self._check()

    def whole(self) -> Input:
        """Return the value, once all parts were added."""
        self._end_text()
        return cast(str, self._entries[0]) if self._is_text else self._entries

    def _extend_text(self, more: str) -> None:
        if not self._text:
            self._text = [cast(str, self._entries[-1])]
        if sum(map(len, self._text)) <= self._limits.max_input_chars:
            self._text.append(more)

    def _end_text(self) -> None:
        if self._text:
            self._entries[-1] = "".join(self._text)
            self._text = []

    def _check(self) -> None:
        """Refuse too many inputs or ids. Ids of an array that is too long are dropped, as another error is due."""
        limits, entries, max_ids = self._limits, self._entries, self._limits.max_input_ids
        if entries and isinstance(entries[0], int):
            if len(entries) > max_ids:
                raise TooManyTokens(f"An array has at most {max_ids} token ids.", "input")
        elif len(entries) > limits.max_inputs:
            raise InvalidRequest(f"A request has 1 to {limits.max_inputs} inputs, not more.", "input")
        if entries and isinstance(entries[0], str):
            return
        ids = 0
        for entry in entries:
            if isinstance(entry, list):
                del entry[max_ids + 1 :]
                ids += len(entry) if len(entry) <= max_ids else 0
        if ids > limits.max_request_tokens:
            raise TooManyTokens(f"A request has at most {limits.max_request_tokens} token ids.", "input")

    def _refuse(self, begin: Place, message: str) -> NoReturn:
        """Refuse a part, with the index of the entry in the whole: the first of a part goes on with the last here."""
        path = _AT_PATH.search(message)
        indices = [int(index) for index in _INDEX.findall(path["path"])] if path else []
        if len(indices) > 1 and indices[0] == 0:
            indices[1] += len(cast("list[int]", self._entries[-1])) - 1
        if indices:
            indices[0] += len(self._entries) - 1
        where = "".join([f"[{index}]" for index in indices])
        _refuse(f"{_AT_PATH.sub('', message)} - at `$.input{where}`")


def _values(body: bytearray) -> int:
    """Return an estimate of how many values a body has, which is rather too high than too low."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _without_model(struct: type[EmbeddingRequest]) -> type[EmbeddingRequest]:
    """Return the same kind of request, with a model that may be missing."""
    model = ("model", str | None, None)
    without = msgspec.defstruct(struct.__name__, [model], bases=(struct,), frozen=True, kw_only=True)
    return cast("type[EmbeddingRequest]", without)


def some_fields(struct: type[EmbeddingRequest]) -> type[msgspec.Struct]:
    """Return a struct of the fields that a piece of a body may hold, and of one without a name, for nothing."""
    optional: list[Any] = [
        (field.name, field.type | msgspec.UnsetType, msgspec.UNSET)
        for field in msgspec.structs.fields(struct)
    ]
    nothing = ("nothing", msgspec.Raw, msgspec.Raw())
    is_strict = struct.__struct_config__.forbid_unknown_fields
    return msgspec.defstruct(
        "SomeFields", [*optional, nothing], rename={"nothing": ""}, forbid_unknown_fields=is_strict
    )


def _decode(
    decoder: msgspec.json.Decoder[T], body: bytes | bytearray, refuse: Callable[[str], NoReturn]
) -> T:
    try:
        return decoder.decode(body.decode())  # msgspec does not check UTF-8 in unknown fields
    except msgspec.ValidationError as error:
        refuse(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _not_json() from None


def _cut(cutter: Cutter, data: bytes) -> Iterator[Piece]:
    try:
        yield from cutter.feed(data)
    except ValueError:
        raise _not_json() from None


def _not_json() -> InvalidJson:
    return InvalidJson("The body is not one valid JSON document in UTF-8.")


def _refuse(message: str) -> NoReturn:
    """Raise InvalidRequest for an error of msgspec, with the field as ``param`` but never with a value."""
    path = _AT_PATH.search(message)
    problem = _AT_PATH.sub("", message)
    if missing := _MISSING.match(problem):
        raise InvalidRequest("The field is missing.", missing["name"])
    if problem.startswith("Object contains unknown field"):
        raise InvalidRequest("There is a field that is not known, and the gateway is strict.")
    field = path["path"] if path else None
    if field in FIELDS and field != "input":
        problem = f"The value is not one that the field takes: {describe(FIELDS[field])}"
    elif not _EXPECTED.match(problem):
        problem = "The value is not one that this field takes; /docs lists them"
    raise InvalidRequest(f"{problem}.", field)
