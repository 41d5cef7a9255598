"""Texts as clients send them: short and long, in several scripts, with code, emoji and next to nothing."""

from __future__ import annotations

import random

SENTENCE = (
    "the model of a river runs past old stone bridges while people talk about weather prices music and maps "
    "every morning engineers measure how long water takes to reach the sea and write what they find in books"
)
WORDS = tuple(SENTENCE.split())
CHINESE = "今天天气很好我们一起去公园散步然后在河边的茶馆里喝茶聊天直到太阳下山"
EMOJI = ("😀", "🚀", "👩‍👩‍👧", "🇺🇳", "❤️", "🫠")
NEARLY_EMPTY = (" ", ".", "\n\t", "a", "?!", "\u200b", "0", "\x00", "...   ...")
LOOKS_SPECIAL = ("[SEP] and [CLS]", "a </s> b", "<|endoftext|>", "[PAD] [MASK]", "<pad> <unk>")
CODE = (
    "def f(x: int) -> int:\n    return x ** 2  # square\n",
    "SELECT name, count(*) FROM users WHERE id > 7 GROUP BY 1;",
    '{"key": [1, 2.5, null], "flag": true}',
    "for (int i = 0; i < n; ++i) { sum += a[i]; }",
)
OTHER_SCRIPTS = (
    "Съешь ещё этих мягких французских булок",
    "يُولد جميع الناس أحرارًا متساوين",
    "すべての人間は生まれながらにして自由である",
    "Ünïcödé with combining é and ﬁ",
    "ทุกคนเกิดมามีอิสระ",
)


def varied_texts(count: int, seed: int = 0) -> list[str]:
    """Return ``count`` texts, the same for the same seed. None is empty; the longest have about 300 words."""
    source = random.Random(seed)  # a fixed order of kinds would hide mistakes of position
    return [source.choice(KINDS)(source) for _ in range(count)]


def _words(source: random.Random, count: int) -> str:
    return " ".join(source.choice(WORDS) for _ in range(count)).capitalize() + "."


def _chinese(source: random.Random) -> str:
    return "".join(source.choices(CHINESE, k=source.randint(1, 60)))


def _emoji(source: random.Random) -> str:
    return _words(source, 4) + "".join(source.choices(EMOJI, k=source.randint(1, 5)))


KINDS = (
    lambda source: source.choice(NEARLY_EMPTY),
    lambda source: source.choice(WORDS),
    lambda source: _words(source, source.randint(3, 20)),
    lambda source: _words(source, source.randint(3, 20)),
    lambda source: _words(source, source.randint(20, 120)),
    lambda source: _words(source, source.randint(250, 320)),
    lambda source: source.choice(LOOKS_SPECIAL),
    lambda source: source.choice(CODE) * source.randint(1, 4),
    lambda source: source.choice(OTHER_SCRIPTS),
    _chinese,
    _emoji,
)
