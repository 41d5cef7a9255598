"""Texts that the measurements are made on: plain English, made from a number, no two alike.

Every word is one token of BERT's vocabulary, so that the lengths are known; what a run reports is counted
with the model's own tokenizer all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Kind = Literal["short", "mixed", "long", "wide"]
"""``short`` is a sentence, ``mixed`` 1 to 16 of them, ``long`` 256 tokens, ``wide`` 98 words of a large
vocabulary, see :data:`WIDE_WORDS`."""
KINDS: tuple[Kind, ...] = get_args(Kind)


def words(listed: str) -> tuple[str, ...]:
    """Return the words of a list."""
    return tuple(listed.split())


ADJECTIVES = words("""
    old young big small red green blue white black dark bright cold warm dry wet heavy light long short tall
    wide deep quick slow quiet loud soft hard rich poor new fresh clean empty full open strange famous happy
    sad angry calm brave gentle proud round flat silver golden wooden
""")
NOUNS = words("""
    river bridge doctor teacher farmer engineer city garden house window door table letter book song horse
    dog cat bird fish tree flower mountain forest island village street market station train ship boat road
    wall tower castle church school hospital bank office kitchen engine machine camera clock map picture
    story newspaper king queen soldier captain student child woman man friend neighbor writer painter singer
    driver judge
""")
VERBS = words("""
    saw found watched followed left met heard remembered forgot loved wanted needed took carried lost sold
    bought built opened closed cleaned painted described studied visited crossed reached passed covered
    protected attacked showed moved kept held touched called answered asked helped
""")
TAILS: tuple[tuple[str, ...], ...] = (
    ("again", "today", "alone", "together"),
    ("last winter", "every morning", "at night", "with care"),
    ("near the sea", "for a year", "without a word", "after the war"),
    ("in the old town", "on a summer day", "before the long journey", "for the first time"),
)
"""Phrases of one, two, three and four words."""

CORE_WORDS = 6
WORDS_MAX = CORE_WORDS + 11
LONG_TOKENS = 256
SENTENCES_MAX = 16
CORES = len(ADJECTIVES) * len(NOUNS) ** 2 * len(VERBS)
"""How many texts there are; a number from here on would give one a second time."""
STEP = 6_700_417  # a prime that divides none of the lists' lengths: neighbours become strangers
WIDE_WORDS = 249_990
"""``wide`` texts are made of ``w0`` to ``w249989``: words for a model of BGE-M3's vocabulary."""
WIDE_LENGTH = 98


def make_texts(kind: Kind, start: int, count: int) -> list[str]:
    """Return the texts numbered from ``start``. Other numbers give other texts, whatever their kinds.

    Raises:
        ValueError: there are not that many.
    """
    if start + count > CORES:
        raise ValueError(f"there are only {CORES} different texts")
    make = {"short": short, "mixed": mixed, "long": long, "wide": wide}[kind]
    return [make(number) for number in range(start, start + count)]


def short(number: int) -> str:
    """Return one sentence: 9 to 20 tokens, 14.5 on average."""
    return sentence(number, CORE_WORDS + scatter(number, 1) % 12)


def mixed(number: int) -> str:
    """Return 1 to 16 sentences, each number of them equally likely."""
    return " ".join(
        [short(number), *(short(scatter(number, i)) for i in range(1, 1 + scatter(number, 0) % 16))]
    )


def long(number: int) -> str:
    """Return sentences of exactly 256 tokens, two special ones included."""
    sentences: list[str] = []
    left = LONG_TOKENS - 2
    while left > WORDS_MAX + 1:
        words = CORE_WORDS + scatter(number, len(sentences)) % 12
        if left - words - 1 < CORE_WORDS + 1:  # the last sentence needs room for its core
            words = CORE_WORDS
        sentences.append(sentence(scatter(number, 100 + len(sentences)) if sentences else number, words))
        left -= words + 1
    sentences.append(sentence(scatter(number, 99), left - 1))
    return " ".join(sentences)


def wide(number: int) -> str:
    """Return 98 words; the first two are no other text's."""
    first = divmod(number, WIDE_WORDS)
    rest = (scatter(number, i) % WIDE_WORDS for i in range(WIDE_LENGTH - 2))
    return " ".join(f"w{word}" for word in (*first, *rest))


def sentence(number: int, words: int) -> str:
    """Return a sentence of that many words and a full stop; no other number has its first six words."""
    digits = (number * STEP) % CORES
    digits, adjective = divmod(digits, len(ADJECTIVES))
    digits, verb = divmod(digits, len(VERBS))
    one, other = divmod(digits, len(NOUNS))
    core = f"The {ADJECTIVES[adjective]} {NOUNS[one]} {VERBS[verb]} the {NOUNS[other]}"
    return " ".join([core, *tails(words - CORE_WORDS, number)]) + "."


def tails(words: int, number: int) -> Sequence[str]:
    """Return phrases that have so many words together."""
    lengths = [4] * (words // 4) + ([words % 4] if words % 4 else [])
    return [TAILS[length - 1][(number + i) % 4] for i, length in enumerate(lengths)]


def scatter(number: int, salt: int) -> int:
    """Return a number below 2**32 that looks random (the finalizer of MurmurHash3)."""
    mixed_bits = (number * 1_000_003 + salt * 40_503 + 1) & 0xFFFFFFFF
    mixed_bits = ((mixed_bits ^ (mixed_bits >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    mixed_bits = ((mixed_bits ^ (mixed_bits >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return mixed_bits ^ (mixed_bits >> 16)
