"""What the parts of a tokenizer allow to know of a text without tokenizing all of it.

Where it may be divided, so that the ids of its parts are those of the whole; and how many tokens it has at least.
Both are known only if every part of the tokenizer is one of those listed here. With any other, texts are
tokenized as a whole, and nothing is known before.
"""

from __future__ import annotations

import base64
import json
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer
from tokenizers.normalizers import Precompiled

from embeddings_gateway.backends.base import PART_CONTEXT, Part, TokenizedPart, TokenSpan

LOCAL_NORMALIZERS = frozenset(
    {
        *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "Precompiled"),
        *("BertNormalizer", "Strip", "Prepend", "Replace", "ByteLevel"),
    }
)
"""They look at a character and the marks behind it, or at the ends of a text, and keep what can be seen in ASCII."""

LOCAL_PRE_TOKENIZERS = frozenset(
    {
        *("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Metaspace", "ByteLevel"),
        *("Digits", "Punctuation", "Split"),
    }
)
"""They divide a text by what stands near."""

COMPOSING = frozenset({"NFC", "NFKC", "Precompiled"})
"""Normalizers that make one character, which may be unknown or no sign, of a visible one and the mark behind it."""

RUNS_OF_BLANKS = frozenset({" {2,}", r"\s+", r"\s{2,}", " +", "[ ]+", "[ ]{2,}"})
"""Patterns that normalizers may replace by one blank: one that stands between two other characters stays."""

SIGNS = r"!-/:-@\[-`{-~"
SEEN = tuple(map(chr, range(ord("!"), ord("~") + 1)))
SPACES = "\u2581\u0120"  # what vocabularies write for a blank: those of sentencepiece, and those of bytes
CONTROLS = "\u0100-\u0120"  # what vocabularies of bytes write for control characters and blanks
AFTER_A_CHARACTER = re.compile(rf"[^\s{SPACES}][ {SPACES}]")
AFTER_A_BYTE = re.compile(rf"[^{CONTROLS}]\u0120")
ADDED_WITH_BLANK = re.compile(r"\S\s|\s\S")

ALONE = r"(?<=[!-~\w])(?= [!-~\w])"
"""Before a blank that stands alone between two characters: whatever came before ends there."""
BESIDE_SIGN = rf"(?<=[{SIGNS}])(?=[!-~])|(?<=[!-~])(?=[{SIGNS}])"
BETWEEN_IDEOGRAPHS = r"(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])"

TRIES_MAX = 256
"""Places that are tried, at most, until one is found that no token stretches over."""
NEIGHBOURS = 8
"""Tokens before a place that are looked at: several may begin with the same character."""
NEAR = 1024
"""Characters before the end, in which a place is looked for first."""


class TextRules(NamedTuple):
    """What is known of the texts of a tokenizer.

    Attributes:
        span: how much of a text one token can stand for at most.
        places: finds, at its beginning, a place where a text may be divided; ``None``: there are none.
        misplaces: whether the library may misplace the tokens of a text, so that nothing is certain of it.
    """

    span: TokenSpan = TokenSpan()
    places: re.Pattern[str] | None = None
    misplaces: Callable[[str], bool] = lambda text: False


def read_rules(tokenizer: Tokenizer) -> TextRules:
    """Return the rules of a tokenizer."""
    normalizers = _components(tokenizer.normalizer, "normalizers")
    splitters = _components(tokenizer.pre_tokenizer, "pretokenizers")
    if not (_are_local(normalizers, LOCAL_NORMALIZERS) and _are_local(splitters, LOCAL_PRE_TOKENIZERS)):
        return TextRules()
    if not all(map(_keeps_blanks, normalizers)):
        return TextRules()
    parts = _Parts(tokenizer, normalizers, splitters)
    rules = TextRules(parts.span(), parts.places())
    tables = [part["precompiled_charsmap"] for part in normalizers if part["type"] == "Precompiled"]
    return rules._replace(misplaces=_drops(tables)) if tables else rules


class _Parts:
    """The parts of a tokenizer of which all are local."""

    def __init__(
        self, tokenizer: Tokenizer, normalizers: Sequence[dict[str, Any]], splitters: Sequence[dict[str, Any]]
    ) -> None:
        self._tokenizer = tokenizer
        self._normalizers = normalizers
        patterns = (part["pattern"].get("String", " ") for part in normalizers if part["type"] == "Replace")
        self._replaced = [pattern for pattern in patterns if pattern != " "]
        self._kinds = {splitter["type"] for splitter in splitters}
        self._removes = any(splitter.get("behavior") == "Removed" for splitter in splitters)
        self._composes = any(part["type"] in COMPOSING for part in normalizers)
        self._added = list(_added_contents(tokenizer))
        self._model: Any = tokenizer.model
        self._of_bytes = "ByteLevel" in self._kinds | {part["type"] for part in normalizers}
        # Blanks end a piece because it is split there, or because no piece of the vocabulary goes on over one.
        by_metaspace = any(part["type"] == "Metaspace" and part.get("split", True) for part in splitters)
        self._splits_at_blanks = by_metaspace or bool(
            self._kinds & {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
        )

    @property
    def _name(self) -> str:
        return type(self._model).__name__

    def _ends_at_blanks(self) -> bool:
        """Return whether no token has a character before a blank that it also has."""
        if any(map(ADDED_WITH_BLANK.search, self._added)):
            return False
        if self._splits_at_blanks:
            return True
        if self._name != "BPE" or self._model.dropout:
            return False
        goes_on = AFTER_A_BYTE if self._of_bytes else AFTER_A_CHARACTER
        return not any(map(goes_on.search, self._tokenizer.get_vocab(with_added_tokens=False)))

    def places(self) -> re.Pattern[str] | None:
        """Return what finds a place where a text may be divided."""
        longest = max(map(len, self._added), default=0)
        if not self._ends_at_blanks() or longest > PART_CONTEXT // 2:
            return None
        patterns = [ALONE]
        if "BertPreTokenizer" in self._kinds and not self._replaced and not _overlap(self._added):
            patterns.append(BESIDE_SIGN)
            if any(part.get("handle_chinese_chars") for part in self._normalizers):
                patterns.append(BETWEEN_IDEOGRAPHS)
        return re.compile("|".join(patterns))

    def span(self) -> TokenSpan:
        """Return how much of a text one token can stand for."""
        if self._name == "WordLevel" or self._removes or not self._ends_at_blanks():
            return TokenSpan()
        has_signs = "BertPreTokenizer" in self._kinds and not (self._replaced or self._composes)
        signs = max((len(re.findall(rf"[{SIGNS}]", token)) for token in self._added), default=0)
        return TokenSpan(
            words=1 if self._has_no_silence() else 0,
            signs=max(1, signs) if has_signs else 0,
            chars=self._longest_piece() if self._knows_all_seen() else 0,
        )

    def _has_no_silence(self) -> bool:
        """Return whether every word has a token, be it that of the unknown."""
        return self._knows_all_seen() or (self._splits_at_blanks and self._name in ("WordPiece", "Unigram"))

    def _knows_all_seen(self) -> bool:
        """Return whether each visible character of ASCII is a piece, so that none is unknown, or part of an unknown."""
        if self._name not in ("BPE", "Unigram"):
            return False
        if self._name == "BPE" and (self._model.end_of_word_suffix or self._model.continuing_subword_prefix):
            return False
        falls_back = self._name == "BPE" and self._model.byte_fallback
        if self._composes and not (self._of_bytes or falls_back):
            return False
        normalizer = self._tokenizer.normalizer
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        normal = (normalizer.normalize_str(char).strip(SPACES + " ") if normalizer else char for char in SEEN)
        return all(
            char in vocabulary
            or (falls_back and all(f"<0x{byte:02X}>" in vocabulary for byte in char.encode()))
            for char in normal
        )

    def _longest_piece(self) -> int:
        """Return how many visible characters of ASCII one token can stand for."""
        pieces = (*self._tokenizer.get_vocab(with_added_tokens=False), *self._added)
        return math.prod(map(len, self._replaced)) * max(len(piece.strip(SPACES + " ")) for piece in pieces)


def certain_part(encoding: Encoding, text: str, part: Part, places: re.Pattern[str]) -> TokenizedPart:
    """Return the ids that a part of a text has in the whole: those between two places where it may be divided.

    Args:
        encoding: of the part alone, with offsets, without special tokens.
        text: the part.
        part: which part it is.
        places: finds the places. One that a token stretches over is passed by.
    """
    nothing = TokenizedPart(np.empty(0, np.int32), part.begin, part.begin)
    begin = _divide(encoding, [0] if part.begin == 0 else _ascending(text, part.begin, places))
    if part.closes:
        end: tuple[int, int] | None = len(text), len(encoding)
    else:
        end = _divide(encoding, _descending(text, len(text) - PART_CONTEXT, places))
    if begin is None or end is None or end[0] <= begin[0]:
        return nothing
    return TokenizedPart(np.array(encoding.ids[begin[1] : end[1]], np.int32), begin[0], end[0])


def _divide(encoding: Encoding, places: Iterator[int] | Sequence[int]) -> tuple[int, int] | None:
    """Return the first place that no token stretches over, and how many tokens are before it.

    Single tokens are asked for their characters: a list of all would hold the interpreter's lock for long.
    """
    for place in islice(places, TRIES_MAX):
        before = bisect_left(range(len(encoding)), place, key=lambda token: _chars(encoding, token)[0])
        # Those behind are asked too: a blank that was put before a character has a place behind it.
        tokens_before = range(max(0, before - NEIGHBOURS), before)
        tokens_behind = range(before, min(before + NEIGHBOURS, len(encoding)))
        if all(_chars(encoding, token)[1] <= place for token in tokens_before) and all(
            _chars(encoding, token)[0] >= place for token in tokens_behind
        ):
            return place, before
    return None


def _chars(encoding: Encoding, token: int) -> tuple[int, int]:
    """Return where the characters of a token begin and end."""
    return encoding.token_to_chars(token) or (0, 0)


def _ascending(text: str, begin: int, places: re.Pattern[str]) -> Iterator[int]:
    return (match.start() for match in places.finditer(text, begin))


def _descending(text: str, end: int, places: re.Pattern[str]) -> Iterator[int]:
    """Yield the places up to ``end``, from the last on."""
    for begin in (max(1, end - NEAR), 1):
        yield from reversed([match.start() for match in places.finditer(text, begin) if match.start() <= end])


def _added_contents(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what each added token is in a text, and what it is in a normalized one if it is looked for there."""
    normalizer = tokenizer.normalizer
    for token in tokenizer.get_added_tokens_decoder().values():
        yield token.content
        if token.normalized and normalizer is not None:
            blank = normalizer.normalize_str("a b")[-2:-1] or " "
            yield normalizer.normalize_str(token.content).replace(blank, " ").lstrip()


def _drops(tables: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells whether a text has a character that one of sentencepiece's tables drops.

    The library puts what follows such a character at the beginning of a text, or behind an added token, too early.
    """
    precompiled = [Precompiled(base64.b64decode(table)) for table in tables]

    @lru_cache(maxsize=1 << 16)
    def is_dropped(char: str) -> bool:
        return not all(each.normalize_str(char) for each in precompiled)

    return lambda text: any(map(is_dropped, set(text)))


def _components(component: Any, key: str) -> list[dict[str, Any]]:
    """Return the parts of a normalizer or pre-tokenizer; one that is written in Python is not known."""
    if component is None:
        return []
    try:
        state = json.loads(component.__getstate__())
    except Exception:  # the library raises Exception itself
        return [{"type": "unknown"}]
    if state["type"] != "Sequence":
        return [state]
    return [part for member in state[key] for part in (member.get(key) or [member])]


def _are_local(components: Sequence[Mapping[str, Any]], known: Collection[str]) -> bool:
    return all(component["type"] in known for component in components)


def _keeps_blanks(normalizer: Mapping[str, Any]) -> bool:
    """Return whether a normalizer leaves a blank between two characters a blank, and what can be seen there."""
    if normalizer["type"] != "Replace":
        return True
    pattern, content = normalizer["pattern"], normalizer["content"]
    if pattern.get("String") == " " or pattern.get("Regex") in RUNS_OF_BLANKS:
        return content in (" ", SPACES[0])
    return bool(content.strip()) and "String" in pattern and " " not in pattern["String"]


def _overlap(tokens: Sequence[str]) -> bool:
    """Return whether one of the tokens, or the same one again, may begin inside another."""
    beginnings = {token[:end] for token in tokens for end in range(1, len(token))}
    endings = {token[begin:] for token in tokens for begin in range(1, len(token))}
    return not beginnings.isdisjoint(endings)
