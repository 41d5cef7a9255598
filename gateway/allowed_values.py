"""Says in words which values a field takes and why a value does not fit. The field's type is the only source.

A message names the field, what it is and what it may be. It repeats a value only if the field takes a number
or one of a few words: any other string may be a secret or a user's text.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
KINDS: tuple[tuple[Any, str], ...] = (
    (types.NoneType, "None"),
    (bool, "a boolean"),  # before int, which it is as well
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (Mapping, "a table"),
    (list | tuple, "a list"),
    (date | time, "a date or time"),
)


def describe(kind: Any) -> str:
    """Return which values a type takes: ``one of float, base64`` or ``an integer from 0 to 65535``.

    Args:
        kind: a type as structs have them: numbers, strings, literals, lists, tables, each with constraints or
            optional, and unions of those. A constraint's ``description`` says it in place of what it demands.
    """
    plain, metas = _unwrap(kind)
    for meta in metas:
        if meta.description:
            return meta.description
    items = get_args(plain)
    if _is_union(plain):
        return _joined([describe(item) for item in items if item is not types.NoneType])
    match get_origin(plain):
        case origin if origin is Literal:
            return f"one of {', '.join(_words(items, metas))}"
        case origin if origin in (list, tuple):
            return _list_of(items[0])
        case origin if origin is dict:
            return f"a table from {_plural(items[0])} to {_plural(items[1])}"
    return NAMES[plain] + _bounds(metas)


def describe_field(struct: type[msgspec.Struct], path: str) -> str:
    """Return which values a field takes; ``path`` may lead further, as ``input[3]`` does into ``input``."""
    name = path.partition("[")[0].partition(".")[0]
    return describe(_types_of(struct)[name])


def explain(table: Mapping[str, Any], struct: type[msgspec.Struct]) -> str:
    """Return what is wrong with the first value that does not fit its field, and the fix.

    It is empty if all fit. Keys that ``struct`` does not have are ignored.
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
    for misfit in _misfits(value, kind, name):
        return f"{misfit.path} is {_shown(misfit)}: set it to {describe(misfit.kind)}"
    return ""


def with_short_forms(table: Mapping[str, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the table with words that have several spellings in the one that the field's type lists."""
    spellings = {name: _spellings(_unwrap(kind)[1]) for name, kind in _types_of(struct).items()}
    return {
        key: spellings.get(key, {}).get(value, value) if isinstance(value, str) else value
        for key, value in table.items()
    }


class _Misfit(NamedTuple):
    """A value that does not fit.

    Attributes:
        path: the field, and where in its value: ``aliases[1]``.
        value: what is there.
        kind: the type that it should have.
    """

    path: str
    value: Any
    kind: Any


def _misfits(value: Any, kind: Any, path: str) -> Iterator[_Misfit]:
    """Yield the items of a value that do not fit, else the value itself if it does not."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        inside = False
        for item_path, item, item_kind in _items(value, kind, path):
            for misfit in _misfits(item, item_kind, item_path):
                inside = True
                yield misfit
        if not inside:
            yield _Misfit(path, value, kind)


def _items(value: Any, kind: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    for option in _options(kind):
        if get_origin(option) in (list, tuple) and isinstance(value, list | tuple):
            yield from ((f"{path}[{index}]", item, get_args(option)[0]) for index, item in enumerate(value))
        if get_origin(option) is dict and isinstance(value, Mapping):
            yield from ((f"{path}.{key}", item, get_args(option)[1]) for key, item in value.items())


def _shown(misfit: _Misfit) -> str:
    """Return the value where it is a number or a word instead of another, else what kind of value it is."""
    value, options = misfit.value, _options(misfit.kind)
    if isinstance(value, int | float) and not isinstance(value, bool) and {int, float} & set(options):
        return reprlib.repr(value)
    if isinstance(value, str) and _takes_words(misfit.kind):
        return reprlib.repr(value)
    if value == "":
        return "an empty string"
    return next((name for kind, name in KINDS if isinstance(value, kind)), type(value).__name__)


def _takes_words(kind: Any) -> bool:
    plain, metas = _unwrap(kind)
    return get_origin(plain) is Literal or any(meta.description for meta in metas)


def _types_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


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
    """Return the types that a union is of, or the one that ``kind`` is, without constraints."""
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


def _list_of(kind: Any) -> str:
    return f"a list of {_plural(kind)}" if kind in NAMES else f"a list, each item {describe(kind)}"


def _plural(kind: Any) -> str:
    return f"{NAMES[kind].partition(' ')[2]}s"


def _joined(choices: Sequence[str]) -> str:
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def _bounds(metas: Sequence[msgspec.Meta]) -> str:
    bounds = {
        name: bound
        for meta in metas
        for name in ("gt", "ge", "lt", "le", "min_length")
        if (bound := getattr(meta, name)) is not None
    }
    if bounds.keys() == {"ge", "le"}:
        return f" from {bounds['ge']} to {bounds['le']}"
    words = {
        "gt": "above {}",
        "ge": "of at least {}",
        "lt": "below {}",
        "le": "at most {}",
        "min_length": "of {} or more characters",
    }
    described = [words[name].format(bound) for name, bound in bounds.items()]
    return f" {' and '.join(described)}" if described else ""
