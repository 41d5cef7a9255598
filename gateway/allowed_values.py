"""Describes the values that a field takes, and explains why a value does not fit. The field's type is the only source.

A message repeats a value only if the field takes a number or one of a few words. Any other string may be a secret or
a user's text.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

TYPE_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
VALUE_NAMES: tuple[tuple[Any, str], ...] = (
    (types.NoneType, "None"),
    (bool, "a boolean"),  # before int, of which it is a subclass
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (Mapping, "a table"),
    (list | tuple, "a list"),
    (date | time, "a date or time"),
)
BOUNDS = {
    "gt": "above {}",
    "ge": "of at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "min_length": "of {} or more characters",
}


def describe(kind: Any) -> str:
    """Return the values that a type takes: ``one of float, base64`` or ``an integer from 0 to 65535``.

    Args:
        kind: a type of a struct's field: a number, string, literal, list or table, with constraints or optional,
            or a union of these. The ``description`` of a constraint replaces the derived one.
    """
    plain, metas = _unwrap(kind)
    for meta in metas:
        if meta.description:
            return meta.description
    items = get_args(plain)
    if _is_union(plain):
        *first, last = [describe(item) for item in items if item is not types.NoneType]
        return f"{', '.join(first)} or {last}"
    match get_origin(plain):
        case origin if origin is Literal:
            return f"one of {', '.join(_words(items, metas))}"
        case origin if origin in (list, tuple):
            is_plain = items[0] in TYPE_NAMES
            return f"a list of {_plural(items[0])}" if is_plain else f"a list, each item {describe(items[0])}"
        case origin if origin is dict:
            return f"a table from {_plural(items[0])} to {_plural(items[1])}"
    return TYPE_NAMES[plain] + _bounds(metas)


def explain(table: Mapping[str, Any], struct: type[msgspec.Struct]) -> str:
    """Return the first problem of a table and its fix; empty if all fields of ``struct`` fit.

    Keys that ``struct`` does not have are ignored.
    """
    for field in msgspec.structs.fields(struct):
        if field.name in table:
            if problem := explain_value(table[field.name], field.type, field.name):
                return problem
        elif field.required:
            return f"{field.name} is missing: set it to {describe(field.type)}"
    return ""


def explain_value(value: Any, kind: Any, name: str) -> str:
    """Return why a value, called ``name``, does not fit a type, and the fix; empty if it fits."""
    for mismatch in _mismatches(value, kind, name):
        return f"{mismatch.path} is {_shown(mismatch)}: set it to {describe(mismatch.kind)}"
    return ""


def with_short_forms(table: Mapping[str, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the table with each word in the spelling that the field's type lists."""
    result = dict(table)
    for field in msgspec.structs.fields(struct):
        if isinstance(word := table.get(field.name), str):
            result[field.name] = _spellings(_unwrap(field.type)[1]).get(word, word)
    return result


class _Mismatch(NamedTuple):
    """A value that does not fit its type.

    Attributes:
        path: the field, and the place in its value: ``aliases[1]``.
    """

    path: str
    value: Any
    kind: Any


def _mismatches(value: Any, kind: Any, path: str) -> Iterator[_Mismatch]:
    """Yield the items of a value that do not fit; if all items do, but the value does not, the value itself."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        is_empty = True
        for item in _items(value, kind, path):
            for mismatch in _mismatches(item.value, item.kind, item.path):
                is_empty = False
                yield mismatch
        if is_empty:
            yield _Mismatch(path, value, kind)


def _items(value: Any, kind: Any, path: str) -> Iterator[_Mismatch]:
    """Yield the items of a list or table, each with its type: they may not fit."""
    for option in _options(kind):
        if get_origin(option) in (list, tuple) and isinstance(value, list | tuple):
            item_kind = get_args(option)[0]
            yield from (_Mismatch(f"{path}[{index}]", item, item_kind) for index, item in enumerate(value))
        if get_origin(option) is dict and isinstance(value, Mapping):
            item_kind = get_args(option)[1]
            yield from (_Mismatch(f"{path}.{key}", item, item_kind) for key, item in value.items())


def _shown(mismatch: _Mismatch) -> str:
    """Return the value if it is a number or a word in place of another, else the kind of value it is."""
    value, (plain, metas) = mismatch.value, _unwrap(mismatch.kind)
    takes_numbers = bool({int, float} & set(_options(mismatch.kind)))
    if takes_numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return reprlib.repr(value)
    takes_words = get_origin(plain) is Literal or any(meta.description for meta in metas)
    if takes_words and isinstance(value, str):
        return reprlib.repr(value)
    if value == "":
        return "an empty string"
    return next((name for kind, name in VALUE_NAMES if isinstance(value, kind)), type(value).__name__)


def _unwrap(kind: Any) -> tuple[Any, Sequence[msgspec.Meta]]:
    """Return a type without constraints and without ``None``, and the constraints."""
    if get_origin(kind) is Annotated:
        plain, *metas = get_args(kind)
        return plain, metas
    if _is_union(kind):
        some = [item for item in get_args(kind) if item is not types.NoneType]
        if len(some) == 1:
            return _unwrap(some[0])
    return kind, ()


def _options(kind: Any) -> list[Any]:
    """Return the members of a union, or the one type, without constraints."""
    plain, _ = _unwrap(kind)
    return [_unwrap(item)[0] for item in get_args(plain)] if _is_union(plain) else [plain]


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _spellings(metas: Sequence[msgspec.Meta]) -> Mapping[str, str]:
    return {long: short for meta in metas for long, short in (meta.extra or {}).get("spellings", {}).items()}


def _words(values: Sequence[str], metas: Sequence[msgspec.Meta]) -> Iterator[str]:
    """Yield each word of a literal, with its other spellings in parentheses."""
    spellings = _spellings(metas)
    for value in values:
        long = [word for word, short in spellings.items() if short == value]
        yield f"{value} ({', '.join(long)})" if long else value


def _plural(kind: Any) -> str:
    return f"{TYPE_NAMES[kind].partition(' ')[2]}s"


def _bounds(metas: Sequence[msgspec.Meta]) -> str:
    pairs = ((name, getattr(meta, name)) for meta in metas for name in BOUNDS)
    bounds = {name: bound for name, bound in pairs if bound is not None}
    if bounds.keys() == {"ge", "le"}:
        return f" from {bounds['ge']} to {bounds['le']}"
    described = [BOUNDS[name].format(bound) for name, bound in bounds.items()]
    return f" {' and '.join(described)}" if described else ""
