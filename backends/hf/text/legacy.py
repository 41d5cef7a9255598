"""Vocabularies of the time before ``tokenizer.json``, converted by transformers."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.network.quiet import quiet


def convert(folder: Path) -> Tokenizer:
    """Return the vocabulary of a model directory, shared with nobody.

    Raises:
        LoadError: it cannot be converted.
    """
    try:
        with quiet():
            loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        # A copy: the object inside a transformers tokenizer changes state while others use it.
        return Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except Exception as error:
        raise LoadError(
            f"{folder} has no tokenizer.json, and its vocabulary cannot be converted "
            f"({type(error).__name__}: {error}): save one with AutoTokenizer's save_pretrained"
        ) from error
