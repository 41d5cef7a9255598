"""Files, texts and batches that would end the process inside llama.cpp, refused before it sees them.

llama.cpp answers a wrong argument with ``abort()``, or reads memory beyond an array. The gateway and the
worker promise right arguments already; a broken promise costs one batch here, and the process there.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as llama

from embeddings_gateway.backends.base import Batch, EmbedError, LoadError
from embeddings_gateway.backends.gguf.model import LlamaModel, metadata
from embeddings_gateway.backends.gguf.packing import SEQUENCES_MAX, Sizes

MAGIC = b"GGUF"
VERSIONS = (2, 3)
FILE_HEADER = struct.Struct("<4sIQQ")  # magic, version, tensors, metadata entries
ENTRY_BYTES_MIN = 12  # the shortest metadata entry: an empty key, its type, nothing else
SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
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


def check_file(path: Path) -> None:
    """Refuse a path that is plainly no whole GGUF model file. llama.cpp refuses more, by what the file holds.

    Raises:
        LoadError: not an absolute path, no file, no GGUF, an unknown version, one part of several.
    """
    if not path.is_absolute():
        raise LoadError(f"{path}: give the absolute path of a GGUF file")
    if not path.is_file():
        raise LoadError(f"{path}: there is no such file")
    _check_whole(path)
    _check_header(path)


def _check_whole(path: Path) -> None:
    """Refuse a part: llama.cpp would find the others by name, and no sum would cover them."""
    shard = SHARD.search(path.name)
    if shard and int(shard[1]) > 1:
        raise LoadError(f"{path}: one part of {int(shard[1])}; merge them with llama-gguf-split --merge")


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(FILE_HEADER.size)
    if start[:4] != MAGIC:
        raise LoadError(f"{path}: not a GGUF file")
    if len(start) < FILE_HEADER.size:
        raise LoadError(f"{path}: cut short after {len(start)} bytes")
    _magic, version, tensors, entries = FILE_HEADER.unpack(start)
    if version not in VERSIONS:
        raise LoadError(f"{path}: GGUF version {version}, but only {VERSIONS} are known; convert it again")
    if tensors == 0:
        raise LoadError(f"{path}: holds no tensors (a vocabulary, or the index of a split model)")
    if (tensors + entries) * ENTRY_BYTES_MIN > path.stat().st_size:
        raise LoadError(f"{path}: cut short or damaged: it is too small for what its header announces")


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


def splits_by_regex(model: LlamaModel) -> bool:
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


def check_batch(batch: Batch, sizes: Sizes, vocabulary_size: int) -> None:
    """Refuse a batch that does not fit the context.

    Raises:
        EmbedError: no input or too many, an empty or too long one, an id outside the vocabulary, or more
            tokens in all than the context has room for.
    """
    if not 1 <= len(batch) <= SEQUENCES_MAX:
        raise EmbedError(f"a batch of {len(batch)} inputs; from 1 to {SEQUENCES_MAX} are possible")
    misfits = np.flatnonzero((batch.lengths < 1) | (batch.lengths > sizes.max_tokens))
    if len(misfits):
        i = misfits[0]
        raise EmbedError(
            f"input {i} has {batch.lengths[i]} tokens; from 1 to {sizes.max_tokens} are possible"
        )
    outside = np.flatnonzero((batch.ids < 0) | (batch.ids >= vocabulary_size))
    if len(outside):
        i = np.searchsorted(batch.offsets(), outside[0], side="right") - 1
        raise EmbedError(f"input {i} has a token id outside the vocabulary of {vocabulary_size}")
    if batch.tokens > sizes.capacity:
        raise EmbedError(f"a batch of {batch.tokens} tokens; the context has room for {sizes.capacity}")
