"""What a GGUF file says about its model, read once after loading. It decides nothing."""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import msgspec
from llama_cpp import llama_cpp as llama

Route = Literal["encode", "decode"]
"""Which of the engine's two calls computes the model."""

POOLINGS = {
    llama.LLAMA_POOLING_TYPE_NONE: "none",
    llama.LLAMA_POOLING_TYPE_MEAN: "mean",
    llama.LLAMA_POOLING_TYPE_CLS: "cls",
    llama.LLAMA_POOLING_TYPE_LAST: "last",
    llama.LLAMA_POOLING_TYPE_RANK: "rank",
}
FTYPE_GUESSED = 1024  # LLAMA_FTYPE_GUESSED: the file names no type, so the engine took the commonest
FTYPES = {
    value: name.removeprefix("LLAMA_FTYPE_").removeprefix("ALL_").removeprefix("MOSTLY_").lower()
    for name, value in vars(llama).items()
    if name.startswith("LLAMA_FTYPE_")
}
VALUE_BYTES = 256  # the engine cuts a longer value; only short ones are asked for


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of a loaded model, whatever the configuration says.

    Attributes:
        architecture: ``bert``, ``qwen3``, ``t5encoder``, ...
        width: floats in a vector; the output width, which may differ from the inner one.
        n_ctx_train: the longest input the model was trained for, in tokens.
        n_vocab: token ids are in ``range(n_vocab)``.
        pooling: what the file says, or ``None`` where it says nothing.
        dtype: of the weights: ``f32``, ``bf16``, ``q8_0``, ``q4_k_m``, ...
        route: the call that computes it.
        adds_end: whether the tokenizer ends a text with its end token, or ``None`` where the file is silent.
    """

    architecture: str
    width: int
    n_ctx_train: int
    n_vocab: int
    pooling: str | None
    dtype: str
    route: Route
    adds_end: bool | None


def read(model: Any) -> Facts:
    """Ask the engine for the facts of ``model``, a ``llama_model`` pointer."""
    architecture = metadata(model, "general.architecture") or "unknown"
    pooling = metadata(model, f"{architecture}.pooling_type")
    adds_end = metadata(model, "tokenizer.ggml.add_eos_token")
    return Facts(
        architecture=architecture,
        width=llama.llama_model_n_embd_out(model),
        n_ctx_train=llama.llama_model_n_ctx_train(model),
        n_vocab=llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)),
        pooling=None if pooling is None else POOLINGS.get(int(pooling), pooling),
        dtype=FTYPES.get(llama.llama_model_ftype(model) & ~FTYPE_GUESSED, "unknown"),
        route=_route(model),
        adds_end=None if adds_end is None else adds_end == "true",
    )


def metadata(model: Any, key: str) -> str | None:
    """Return a metadata value as text, cut at ``VALUE_BYTES``, or ``None`` where the file has no such key."""
    buffer = ctypes.create_string_buffer(VALUE_BYTES)
    length = llama.llama_model_meta_val_str(model, key.encode(), buffer, VALUE_BYTES)
    return None if length < 0 else buffer.value.decode("utf-8", "replace")


def _route(model: Any) -> Route:
    """Choose the call: only T5-like models "have an encoder", and of those the encoder makes the vectors.

    ``llama_decode`` is right for all others: it calls the encoder itself for models without memory (BERT).
    """
    return "encode" if llama.llama_model_has_encoder(model) else "decode"
