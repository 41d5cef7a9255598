"""Texts that the measurements are made on: plain English, made from a number, no two alike."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

TextKind = Literal["short", "mixed", "long", "wide"]
"""``short`` is a sentence, ``mixed`` 1 to 16 of them, ``long`` 256 tokens, ``wide`` 98 words of a large
vocabulary, see :data:`WIDE_WORDS`."""

WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text())
ADJECTIVES, NOUNS, VERBS = (WORDS[name].split() for name in ("adjectives", "nouns", "verbs"))
CORE_WORDS = 6
CORES = len(ADJECTIVES) * len(NOUNS) ** 2 * len(VERBS)
"""How many texts there are; a number from here on would give one a second time."""
STEP = 6_700_417  # a prime that divides none of the lists' lengths: neighbours become strangers
WIDE_WORDS = 249_990
"""``wide`` texts are made of ``w0`` to ``w249989``: words for a model of BGE-M3's vocabulary."""
WIDE_LENGTH = 98


def make_texts(kind: TextKind, numbers: Sequence[int]) -> list[str]:
    """Return the texts of these numbers; other numbers give other texts, whatever their kinds."""
    if numbers and numbers[-1] >= CORES:
        raise ValueError(f"there are only {CORES} different texts")
    return list(map({"short": _short, "mixed": _mixed, "long": _long, "wide": _wide}[kind], numbers))


def _short(number: int) -> str:
    """Return one sentence: 9 to 20 tokens, 14.5 on average."""
    return _sentence(number, CORE_WORDS + _scatter(number, 1) % 12)


def _mixed(number: int) -> str:
    """Return 1 to 16 sentences, each number of them equally likely."""
    more = range(1, 1 + _scatter(number, 0) % 16)
    return " ".join([_short(number), *(_short(_scatter(number, i)) for i in more)])


def _long(number: int) -> str:
    """Return 256 tokens: 17 sentences of 13 words, one of 15, a full stop each, and two special tokens."""
    more = (_sentence(_scatter(number, i), 13) for i in range(17))
    return " ".join([_sentence(number, 15), *more])


def _wide(number: int) -> str:
    """Return 98 words; the first two are no other text's."""
    rest = (_scatter(number, i) % WIDE_WORDS for i in range(WIDE_LENGTH - 2))
    return " ".join(f"w{word}" for word in (*divmod(number, WIDE_WORDS), *rest))


def _sentence(number: int, words: int) -> str:
    """Return a sentence of that many words and a full stop; no other number has its first six words."""
    digits, adjective = divmod((number * STEP) % CORES, len(ADJECTIVES))
    digits, verb = divmod(digits, len(VERBS))
    one, other = divmod(digits, len(NOUNS))
    core = f"The {ADJECTIVES[adjective]} {NOUNS[one]} {VERBS[verb]} the {NOUNS[other]}"
    fours, rest = divmod(words - CORE_WORDS, 4)
    lengths = [4] * fours + [rest] * (rest > 0)
    tails = (WORDS["tails"][length - 1][(number + i) % 4] for i, length in enumerate(lengths))
    return " ".join([core, *tails]) + "."


def _scatter(number: int, salt: int) -> int:
    """Return a number below 2**32 that looks random (the finalizer of MurmurHash3)."""
    bits = (number * 1_000_003 + salt * 40_503 + 1) & 0xFFFFFFFF
    bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return bits ^ (bits >> 16)
