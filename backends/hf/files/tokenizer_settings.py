"""What transformers makes of a directory's tokenizer beyond ``tokenizer.json``, as plain values.

``tokenizer_check`` finds it out, a conversion keeps it, and ``tokenizer`` heeds it. No model library.
"""

from __future__ import annotations

import msgspec


class AddedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that is found in a text before it is split; the attributes are those of the tokenizers library."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class BertNormalizer(msgspec.Struct, frozen=True, kw_only=True):
    """How text is cleaned before it is split, in tokenizers of BERT's kind."""

    clean_text: bool
    handle_chinese_chars: bool
    strip_accents: bool | None
    lowercase: bool


class Segments(msgspec.Struct, frozen=True):
    """The segment (token type) of the special tokens before a text, of all of its tokens, and of those after it."""

    prefix: tuple[int, ...]
    text: int
    suffix: tuple[int, ...]


class TokenizerSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What replaces parts of ``tokenizer.json``; ``None`` or empty: nothing does.

    Attributes:
        normalizer: instead of the file's.
        add_prefix_space: whether a text begins with a blank, in byte-level tokenizers.
        split_special_tokens: whether a text that reads like a special token is text.
        added_tokens: beside the file's, or with other attributes than there.
        segments: where they are not all 0.
        notes: in what transformers differs in spite of this, for the operator.
    """

    normalizer: BertNormalizer | None = None
    add_prefix_space: bool | None = None
    split_special_tokens: bool = False
    added_tokens: tuple[AddedToken, ...] = ()
    segments: Segments | None = None
    notes: tuple[str, ...] = ()
