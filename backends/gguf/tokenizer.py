"""Text into token ids with the file's own vocabulary. Any thread may call it, beside the one that computes.

A text is only ever text: the name of a special token inside it (``[SEP]``, ``<|endoftext|>``) is spelled
out in ordinary tokens, so that nobody can put control tokens into an input by writing them. Hugging Face's
tokenizers turn such a name into the token itself: there the ids differ.

WordPiece is llama.cpp's own too. For ordinary text its ids are those of Hugging Face's; they differ for a
word of more than 100 characters (split into pieces, where Hugging Face has one unknown token), for spacing
marks (the vowel signs of Indic scripts, dropped), and for characters younger than its Unicode tables.

llama.cpp ends the process on some vocabularies and texts. They are refused here before it sees them.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import numpy as np

from embeddings_gateway.backends.base import EmbedError, LoadError, TokenIds
from embeddings_gateway.backends.gguf.bindings import llama
from embeddings_gateway.backends.gguf.model import GgufFacts, LlamaModel, metadata
from embeddings_gateway.backends.gguf.token_span import token_span

TEXT_BYTES_MAX = 2**30  # the engine counts bytes and tokens in 32 bits
SPARE = 16  # special tokens, and what a tokenizer adds before a text
PROBE = "a"
QWEN3_END = "<|endoftext|>"
# Byte-pair vocabularies are split into words first: for these by a loop, for all others by std::regex.
SPLIT_BY_LOOP = frozenset(
    {
        *("gpt-2", "modern-bert", "roberta-bpe", "jina-v1-en", "jina-v2-code", "jina-v2-de", "jina-v2-es"),
        *("llama3", "llama-v3", "llama-bpe", "lfm2", "jina-v5-nano"),
        *("qwen2", "deepseek-r1-qwen", "f2llmv2", "qwen35"),
    }
)
# std::regex calls itself for every character of a match. Measured with a stack of 8 MiB, for the
# pre-tokenizers gpt-4o, tekken and deepseek-llm: 20,000 characters pass, 40,000 are a segmentation fault.
RUN_CHARACTERS_MAX = 10_000
RUN = re.compile(r"\S+|\s+")


class LlamaTokenizer:
    """The tokenizer of one model.

    Attributes:
        prefix, suffix: the special ids before and after every text.
        appended: the end token's id where the file forgets it and we add it, else ``None``.
        span: how much of a text one token can stand for.
    """

    def __init__(self, model: LlamaModel, pooling: str) -> None:
        self._pointer: Any = model.vocabulary
        check_special_ids(self._pointer)
        self._splits_by_regex = _splits_by_regex(model)
        self._strips_accents = _strips_accents(model)
        inner = self._tokenize(PROBE.encode(), add_special=False)
        full = self._tokenize(PROBE.encode(), add_special=True)
        self.prefix, suffix = _around(inner.tolist(), full.tolist())
        self.appended = None if suffix else self._forgotten_end(model.facts, pooling)
        self._end = np.array([] if self.appended is None else [self.appended], dtype=np.int32)
        self.suffix = suffix or tuple(self._end.tolist())
        self.span = token_span(self._pointer, lambda text: self._tokenize(text.encode(), add_special=False))

    def __repr__(self) -> str:
        return f"<LlamaTokenizer {self.prefix} ... {self.suffix}>"

    def encode(self, text: str) -> TokenIds:
        """Return the ids of ``text``, special tokens included, never cut; without these an empty text has none.

        Raises:
            EmbedError: the text is not valid Unicode, is too long, or would overflow the engine's stack.
        """
        if self._splits_by_regex:
            _check_runs(text)
        if self._strips_accents and not text.isascii():
            # The engine keeps the first character of a decomposition only, and so drops Hangul's vowels.
            text = unicodedata.normalize("NFD", text)
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            # The original error carries the text.
            raise EmbedError("not valid Unicode: it holds half a surrogate pair") from None
        if len(data) > TEXT_BYTES_MAX:
            raise EmbedError(f"{len(data)} bytes long; at most {TEXT_BYTES_MAX} are possible")
        ids = self._tokenize(data, add_special=True)
        return np.concatenate((ids, self._end)) if self.appended is not None else ids

    def _tokenize(self, data: bytes, *, add_special: bool, parse_special: bool = False) -> TokenIds:
        """Call the engine: once where a token has a byte at least, else again with the room it names."""
        room = len(data) + SPARE
        for _attempt in range(2):
            ids = np.empty(room, dtype=np.int32)
            pointer = ids.ctypes.data_as(llama.llama_token_p)
            # The length is given because a text may hold NUL characters.
            arguments = (self._pointer, data, len(data), pointer, room, add_special, parse_special)
            count = int(llama.llama_tokenize(*arguments))
            if count >= 0:
                return ids[:count].copy()
            room = -count
            if room >= 2**31:  # the engine's INT32_MIN, "more than can be counted"
                break
        raise EmbedError("too many tokens for llama.cpp to count")

    def _forgotten_end(self, facts: GgufFacts, pooling: str) -> int | None:
        """Return the end token that Qwen3-Embedding was trained with, where its older files lack it.

        They pool the last token and say nothing of an end token. A file that says no is taken at its word.
        """
        if facts.architecture != "qwen3" or pooling != "last" or facts.adds_end is not None:
            return None
        ids = self._tokenize(QWEN3_END.encode(), add_special=False, parse_special=True)
        return int(ids[0]) if len(ids) == 1 else None


def check_special_ids(vocabulary: Any) -> None:
    """Refuse a file that adds a special token but does not say which: the engine would abort on any text."""
    wordpiece = llama.llama_vocab_type(vocabulary) == llama.LLAMA_VOCAB_TYPE_WPM
    added = {
        "bos": (wordpiece or llama.llama_vocab_get_add_bos(vocabulary), llama.llama_vocab_bos(vocabulary)),
        "eos": (llama.llama_vocab_get_add_eos(vocabulary), llama.llama_vocab_eos(vocabulary)),
        "seperator": (wordpiece, llama.llama_vocab_sep(vocabulary)),  # spelled so in the format
    }
    for name, (is_added, token) in added.items():
        if is_added and token == llama.LLAMA_TOKEN_NULL:
            raise LoadError(f"the file has no tokenizer.ggml.{name}_token_id: convert the model again")


def _splits_by_regex(model: LlamaModel) -> bool:
    """Return whether the engine splits texts with std::regex, which needs :func:`_check_runs`."""
    if llama.llama_vocab_type(model.vocabulary) != llama.LLAMA_VOCAB_TYPE_BPE:
        return False
    return metadata(model.pointer, "tokenizer.ggml.pre") not in SPLIT_BY_LOOP


def _check_runs(text: str) -> None:
    """Refuse a text with a run of characters or of spaces that could overflow the engine's stack."""
    if len(text) > RUN_CHARACTERS_MAX and max(map(len, RUN.findall(text))) > RUN_CHARACTERS_MAX:
        raise EmbedError(
            f"more than {RUN_CHARACTERS_MAX} characters without a space, or as many spaces, "
            "are too many for this model's tokenizer"
        )


def _strips_accents(model: LlamaModel) -> bool:
    """Return whether the engine decomposes characters, as it does for an uncased WordPiece vocabulary."""
    if llama.llama_vocab_type(model.vocabulary) != llama.LLAMA_VOCAB_TYPE_WPM:
        return False
    stated = metadata(model.pointer, "tokenizer.ggml.normalizer.strip_accents")
    stated = stated or metadata(model.pointer, "tokenizer.ggml.normalizer.lowercase")
    return stated != "false"


def _around(inner: list[int], full: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what stands before and after ``inner`` in ``full``."""
    for start in range(len(full) - len(inner) + 1):
        stop = start + len(inner)
        if full[start:stop] == inner:
            return tuple(full[:start]), tuple(full[stop:])
    raise LoadError("the tokenizer changes a text's own tokens where it adds special ones")
