"""Files and texts that would end the process inside llama.cpp's tokenizer, refused before it sees them."""

from __future__ import annotations

import re
from typing import Any

from llama_cpp import llama_cpp as llama

from embeddings_gateway.backends.base import EmbedError, LoadError
from embeddings_gateway.backends.gguf.facts import metadata
from embeddings_gateway.backends.gguf.model import Model

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


def check_special_ids(vocabulary: Any) -> None:
    """Refuse a vocabulary that would make the engine abort on its first text.

    Raises:
        LoadError: the file adds a special token to every text, but does not say which.
    """
    wordpiece = llama.llama_vocab_type(vocabulary) == llama.LLAMA_VOCAB_TYPE_WPM
    added = {
        "bos": (wordpiece or llama.llama_vocab_get_add_bos(vocabulary), llama.llama_vocab_bos(vocabulary)),
        "eos": (llama.llama_vocab_get_add_eos(vocabulary), llama.llama_vocab_eos(vocabulary)),
        "seperator": (wordpiece, llama.llama_vocab_sep(vocabulary)),  # spelled so in the format
    }
    for name, (is_added, token) in added.items():
        if is_added and token == llama.LLAMA_TOKEN_NULL:
            raise LoadError(f"the file has no tokenizer.ggml.{name}_token_id: convert the model again")


def splits_by_regex(model: Model) -> bool:
    """Return whether :func:`check_runs` is needed for this model's texts."""
    if llama.llama_vocab_type(model.vocabulary) != llama.LLAMA_VOCAB_TYPE_BPE:
        return False
    return metadata(model.pointer, "tokenizer.ggml.pre") not in SPLIT_BY_LOOP


def check_runs(text: str) -> None:
    """Refuse a text that could overflow the stack.

    Raises:
        EmbedError: more than ``RUN_CHARACTERS_MAX`` characters without a space, or as many spaces.
    """
    if len(text) > RUN_CHARACTERS_MAX and max(map(len, RUN.findall(text))) > RUN_CHARACTERS_MAX:
        raise EmbedError(
            f"more than {RUN_CHARACTERS_MAX} characters without a space, or as many spaces, "
            "are too many for this model's tokenizer"
        )
