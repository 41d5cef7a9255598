"""PURE: cuts a JSON document into pieces, and completes each to a small document of its own.

A decoder handles a whole document without a pause. Decoded piece by piece, a large one leaves room for other work. The
document is cut behind commas and inside long strings, wherever they stand. Before a piece come the brackets that are
open, and behind it what closes them. So the document is valid JSON if every piece is; ``decode`` joins their values.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

MAX_UNCUT = 1 << 16
"""Bytes without a place to cut them: of a number, of brackets without commas, or of a field's name or short value."""

LONGEST_ESCAPE = 12
"""Bytes of a character as two escaped surrogates."""

NEAR = 1 << 12
"""Bytes before the end, in which a comma is looked for first."""

MIN_NAME = 256
"""Bytes of a name of a field before it is cut. Names that mean something are shorter, also with escapes."""

Positions = NDArray[np.int64]
_CLOSED_BY = bytes.maketrans(b"[{", b"]}")
_BLANK = b" \t\n\r"
_LOW_SURROGATE = re.compile(rb"\\u[dD][c-fC-F]")
_LAST_CHARACTER = re.compile(rb"[\xc0-\xff][\x80-\xbf]{0,3}\Z")  # of several bytes, or the beginning of one


class Place(NamedTuple):
    """Where a document is cut.

    Attributes:
        brackets: those that are open, from the outermost on.
        inside: what is cut there: between two values of the innermost bracket (``comma``), a string that is a value
            or a ``name``; or ``behind`` the field of the document that was followed.
        field: the name of the document's field whose value is cut, if it is.
    """

    brackets: bytes = b""
    inside: Literal["begin", "comma", "string", "name", "behind"] = "begin"
    field: str | None = None

    def opening(self, skipped: int) -> bytes:
        """Return what goes before a piece that begins here, without so many of the outer brackets.

        It holds a value or the name of a field, which stands for all that went before.
        """
        brackets = self.brackets[skipped:]
        is_string = self.inside == "string"
        innermost = {
            b"": (b'"' if is_string else b""),
            b"[": (b'["' if is_string else b"[0,"),
            b"{": {"string": b'{"":"', "name": b'{"?', "behind": b'{"":0'}.get(self.inside, b'{"":0,'),
        }[brackets[-1:]]
        return brackets[:-1].replace(b"{", b'{"":') + innermost

    def closing(self, skipped: int) -> bytes:
        """Return what goes behind a piece that ends here, without so many of the outer brackets."""
        ends = {"string": b'"', "name": b'":0'}.get(self.inside, b"")
        return ends + self.brackets[skipped:][::-1].translate(_CLOSED_BY)


class Piece(NamedTuple):
    """A part of a document, completed.

    Attributes:
        document: JSON. If the piece begins within the value of the field that is followed, it is a part of that
            value, else an object with some of the document's fields. A field without a name has no meaning.
        begin: where the piece begins.
    """

    document: bytes
    begin: Place


class Cutter:
    """Cuts one document, as its bytes come.

    Args:
        followed: the field whose value is decoded in parts.
        whole: the fields whose values are never cut, if they are strings.
    """

    def __init__(self, followed: str, whole: frozenset[str]) -> None:
        self._followed = followed
        self._whole = whole
        self._place = Place()
        self._text = b""

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yield the pieces that are complete once ``data`` has come.

        Raises:
            ValueError: this can be no JSON document, or one with a value that is too long to be meant.
        """
        self._text += data
        # A short rest waits for more data: each cut takes as long as a look at all of the text.
        while 2 * len(self._text) > len(data) and (cut := self._next_cut()) is not None:
            yield self._take(*cut)
        if len(self._text) > MAX_UNCUT + len(data):
            raise ValueError("a part of the document has no place to cut it")

    def end(self) -> Iterator[Piece]:
        """Yield the last pieces, once all data have come."""
        if self._is_followed(self._place) and (end := Outline(self._text, self._place).end_of_value()):
            yield self._take(end, Place(b"{", "behind"))
        yield self._take(len(self._text), Place())

    def _take(self, end: int, place: Place) -> Piece:
        """Return the text up to a place as a piece, and keep the rest."""
        begin = self._place
        text = self._text[: end - 1 if place.inside == "comma" else end]
        is_followed = self._is_followed(begin)
        closing = b"" if is_followed and place.inside == "behind" else place.closing(is_followed)
        self._text, self._place = self._text[end:], place
        return Piece(begin.opening(is_followed) + text + closing, begin)

    def _is_followed(self, place: Place) -> bool:
        return place.field == self._followed

    def _next_cut(self) -> tuple[int, Place] | None:
        """Return where the next piece ends, and the place there. There are four cases.

        1. The value that is followed ends here: so does the piece.
        2. There is a comma: behind the last one.
        3. The end is inside a string.
        4. There is none: blanks that mean nothing are dropped, and more data have to come.
        """
        outline = Outline(self._text, self._place)
        if self._is_followed(self._place) and (end := outline.end_of_value()):
            return end, Place(b"{", "behind")
        if end := outline.behind_last_comma():
            return end, self._place_at(outline, end, "comma")
        if outline.ends_in_string:
            return self._cut_in_string(outline)
        self._text = outline.without_blanks()
        return None

    def _cut_in_string(self, outline: Outline) -> tuple[int, Place] | None:
        """Return where a string can be cut, unless it is a value that is to stay whole, or a short name."""
        end = outline.last_boundary()
        kind: Literal["string", "name"] = "name" if outline.ends_in_name() else "string"
        if end <= outline.string_begin + (MIN_NAME if kind == "name" else 0):
            return None
        place = self._place_at(outline, end, kind)
        is_whole = place.brackets == b"{" and kind == "string" and place.field in self._whole
        return None if is_whole else (end, place)

    def _place_at(self, outline: Outline, end: int, inside: Literal["comma", "string", "name"]) -> Place:
        brackets = outline.brackets_at(end)
        if not brackets:
            raise ValueError("something follows the document")
        if brackets == b"{" and inside != "string":
            return Place(brackets, inside)
        field = None if self._is_followed(self._place) else outline.last_field(end)
        return Place(brackets, inside, self._place.field if field is None else field)


class Outline:
    """Where the strings and brackets of a part of a document are.

    Args:
        text: the part.
        place: where it begins.

    Attributes:
        string_begin: where the string begins that the text ends in.
        ends_in_string: whether it does.
    """

    def __init__(self, text: bytes, place: Place) -> None:
        self._text = text
        self._place = place
        self._codes = np.frombuffer(text, np.uint8)
        self._begins_in_string = place.inside in ("string", "name")
        self._escapes = _escapes(np.flatnonzero(self._codes == ord("\\")))
        self._quotes = np.flatnonzero(self._codes == ord('"'))
        if len(self._escapes):
            is_escaped = np.zeros(len(text) + 1, np.bool_)
            is_escaped[self._escapes + 1] = True
            self._quotes = self._quotes[~is_escaped[self._quotes]]
        folded = self._codes | 0x20  # [ and { differ in this bit, as ] and } do
        is_bracket = (folded == ord("{")) | (folded == ord("}"))
        self._brackets = self._outside(np.flatnonzero(is_bracket))
        self._opens = folded[self._brackets] == ord("{")
        steps = np.where(self._opens, 1, -1)
        self._depths = len(place.brackets) + np.cumsum(steps)
        self.ends_in_string = (len(self._quotes) + self._begins_in_string) % 2 == 1
        self.string_begin = int(self._quotes[-1]) + 1 if len(self._quotes) else 0

    def end_of_value(self) -> int:
        """Return the end of the value of a field of the document, in which the text begins; 0 if there is none."""
        is_text = len(self._place.brackets) == 1
        ends = self._quotes[:1] if is_text else self._brackets[self._depths <= 1][:1]
        return int(ends[0]) + 1 if len(ends) else 0

    def behind_last_comma(self) -> int:
        """Return the place behind the last comma between two values; 0 if there is none."""
        for begin in (max(0, len(self._text) - NEAR), 0):
            commas = self._outside(np.flatnonzero(self._codes[begin:] == ord(",")) + begin)
            if len(commas):
                break
        else:
            return 0
        end = int(commas[-1]) + 1
        if self._text[: end - 1].rstrip(_BLANK)[-1:] in (b"[", b"{"):
            raise ValueError("a comma has no value before it")
        return end

    def brackets_at(self, end: int) -> bytes:
        """Return the brackets that are open at a place, from the outermost on."""
        count = int(np.searchsorted(self._brackets, end))
        if not count:
            return self._place.brackets
        depths = self._depths[:count]
        least_after = np.minimum.accumulate(depths[::-1])[::-1]
        if least_after[0] < 0:
            raise ValueError("a bracket closes nothing")
        stay_open = self._brackets[:count][self._opens[:count] & (depths <= least_after)]
        return self._place.brackets[: least_after[0]] + bytes(self._codes[stay_open])

    def last_field(self, end: int) -> str | None:
        """Return the last field of the document before a place, if the text holds its name."""
        colons = self._outside(np.flatnonzero(self._codes[:end] == ord(":")))
        before = np.searchsorted(self._brackets, colons)
        depths = np.concatenate([[len(self._place.brackets)], self._depths])[before]
        colons = colons[depths == 1]
        if not len(colons):
            return None
        quotes = self._quotes[: np.searchsorted(self._quotes, colons[-1])][-2:].tolist()
        if len(quotes) < 2:  # a long name, of which the beginning is gone
            return ""
        name = self._text[quotes[0] : quotes[1] + 1]
        try:
            return msgspec.json.decode(name, type=str)
        except msgspec.DecodeError:
            raise ValueError("a name is no string") from None

    def ends_in_name(self) -> bool:
        """Return whether the string in which the text ends is the name of a field."""
        if not len(self._quotes):
            return self._place.inside == "name"
        if self.brackets_at(len(self._text))[-1:] != b"{":
            return False
        return self._text[: self.string_begin - 1].rstrip(_BLANK)[-1:] != b":"

    def last_boundary(self) -> int:
        """Return a place near the end, inside the string there, that divides no character."""
        tail = len(self._text) - LONGEST_ESCAPE
        late = self._escapes[self._escapes >= tail]
        if not len(late):
            last = _LAST_CHARACTER.search(self._text, max(0, tail))
            return last.start() if last else len(self._text)
        end = int(late[0])
        return end - LONGEST_ESCAPE // 2 if _LOW_SURROGATE.match(self._text, end) else end

    def without_blanks(self) -> bytes:
        """Return the text with one blank for many, except in strings."""
        is_blank = functools.reduce(np.logical_or, [self._codes == blank for blank in _BLANK])
        repeats = self._outside(np.flatnonzero(is_blank[1:] & is_blank[:-1]) + 1)
        if not len(repeats):
            return self._text
        return bytes(np.delete(self._codes, repeats))

    def _outside(self, positions: Positions) -> Positions:
        """Return those of some ascending positions that are not in a string."""
        if not len(positions):
            return positions
        quotes_before = np.searchsorted(self._quotes, positions)
        return np.asarray(positions[(quotes_before + self._begins_in_string) % 2 == 0])


def _escapes(backslashes: Positions) -> Positions:
    """Return which backslashes begin an escape: in a row of them, every second one ends one."""
    if not len(backslashes):
        return backslashes
    begins = np.diff(backslashes, prepend=-2) != 1
    first = np.maximum.accumulate(np.where(begins, backslashes, 0))
    return np.asarray(backslashes[(backslashes - first) % 2 == 0])
