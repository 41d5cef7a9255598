"""llama.cpp as a library, and the GGUF file that it loads.

llama.cpp is started once per process. Only the errors that it logs while a model loads are kept: they tell an
operator why. ``header`` refuses files on which llama.cpp would end the process.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections import deque
from pathlib import Path
from typing import Any, Literal

import msgspec

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.gguf.bindings import llama
from embeddings_gateway.backends.gguf.header import GgufHeader, weights_dtype

Route = Literal["encode", "decode"]
"""Which of the engine's two calls computes the model."""

POOLINGS = {
    llama.LLAMA_POOLING_TYPE_NONE: "none",
    llama.LLAMA_POOLING_TYPE_MEAN: "mean",
    llama.LLAMA_POOLING_TYPE_CLS: "cls",
    llama.LLAMA_POOLING_TYPE_LAST: "last",
    llama.LLAMA_POOLING_TYPE_RANK: "rank",
}
FTYPES = {
    value: name.removeprefix("LLAMA_FTYPE_").removeprefix("ALL_").removeprefix("MOSTLY_").lower()
    for name, value in vars(llama).items()
    if name.startswith("LLAMA_FTYPE_")
}
VALUE_BYTES = 256  # the engine cuts a longer value; only short ones are asked for
ERROR = 4  # GGML_LOG_LEVEL_ERROR in ggml.h; the binding has no name for it
LINES_MAX = 16
SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def check_path(path: Path) -> None:
    """Refuse a path that leads to no file, or to one part of a model. Nothing of the file is read."""
    if not path.is_absolute():
        raise LoadError(f"{path}: give the absolute path of a GGUF file")
    if not path.is_file():
        raise LoadError(f"path: there is no file {path}")
    # llama.cpp would find the other parts by name, and no checksum would cover them.
    shard = SHARD.search(path.name)
    if shard and int(shard[1]) > 1:
        raise LoadError(f"{path}: one part of {int(shard[1])}; merge them with llama-gguf-split --merge")


class LlamaModel:
    """A ``llama_model``, mapped into memory. Must outlive the contexts made from it.

    Attributes:
        path: the file, whose header ``read_header`` has accepted.
        pointer: the ``llama_model``, for the engine's functions.
        facts: what the file says.
        on_gpu: whether any layer was put on a GPU.
    """

    def __init__(self, path: Path, header: GgufHeader, n_gpu_layers: int) -> None:
        log = start_llama()
        if n_gpu_layers and not llama.llama_supports_gpu_offload():
            raise LoadError(
                f"n_gpu_layers is {n_gpu_layers}, but this llama-cpp-python is built for processors only: "
                "set n_gpu_layers = 0, or install it with CMAKE_ARGS=-DGGML_CUDA=on"
            )
        self.path = path
        self.on_gpu = n_gpu_layers != 0
        log.clear()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        self.pointer: Any = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise LoadError(f"{path}: llama.cpp cannot load it: {log.reason()}")
        if llama.llama_vocab_type(self.vocabulary) == llama.LLAMA_VOCAB_TYPE_NONE:
            self.close()
            raise LoadError(f"{path}: has no tokenizer; convert the model again, with its tokenizer files")
        self.facts = read_facts(self.pointer, header)

    def __repr__(self) -> str:
        state = f"{self.facts.architecture} {self.facts.dtype}" if self.pointer else "closed"
        return f"<LlamaModel {self.path.name} {state}>"

    @property
    def vocabulary(self) -> Any:
        """The ``llama_vocab``, owned by the model; may be read by any thread."""
        return llama.llama_model_get_vocab(self.pointer)

    def close(self) -> None:
        """Free the weights. A second call does nothing."""
        if self.pointer:
            llama.llama_model_free(self.pointer)
            self.pointer = None


class GgufFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a GGUF file says of its model, read once after loading, whatever the configuration says.

    Attributes:
        architecture: ``bert``, ``qwen3``, ``t5encoder``, ...
        dimensions: of a vector: the output width, which may differ from the inner one.
        max_tokens_trained: the longest input the model was trained for, in tokens.
        vocabulary_size: token ids are in ``range(vocabulary_size)``.
        pooling: what the file says, or ``None`` where it says nothing.
        dtype: of the weights: ``f32``, ``bf16``, ``q8_0``, ``q4_k_m``, ...
        quantised: whether any are multiplied by tokens in fewer than 16 bits.
        route: the call that computes it.
        adds_end: whether the tokenizer ends a text with its end token, or ``None`` where the file is silent.
    """

    architecture: str
    dimensions: int
    max_tokens_trained: int
    vocabulary_size: int
    pooling: str | None
    dtype: str
    quantised: bool
    route: Route
    adds_end: bool | None


def read_facts(model: Any, header: GgufHeader) -> GgufFacts:
    """Ask the engine for the facts of ``model``, a ``llama_model`` pointer; the header has some more."""
    architecture = metadata(model, "general.architecture") or "unknown"
    pooling = metadata(model, f"{architecture}.pooling_type")
    adds_end = metadata(model, "tokenizer.ggml.add_eos_token")
    return GgufFacts(
        architecture=architecture,
        dimensions=llama.llama_model_n_embd_out(model),
        max_tokens_trained=llama.llama_model_n_ctx_train(model),
        vocabulary_size=llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)),
        pooling=None if pooling is None else POOLINGS.get(int(pooling), pooling),
        dtype=weights_dtype(FTYPES.get(header.numbers.get("general.file_type"), "unknown"), header.matrices),
        quantised=header.quantised,
        # Only T5-like models "have an encoder", and of those the encoder makes the vectors. llama_decode is right
        # for all others: it calls the encoder itself for models without memory (BERT).
        route="encode" if llama.llama_model_has_encoder(model) else "decode",
        adds_end=None if adds_end is None else adds_end == "true",
    )


def metadata(model: Any, key: str) -> str | None:
    """Return a metadata value as text, cut at ``VALUE_BYTES``; ``None`` where the file has no such key."""
    buffer = ctypes.create_string_buffer(VALUE_BYTES)
    length = llama.llama_model_meta_val_str(model, key.encode(), buffer, VALUE_BYTES)
    return None if length < 0 else buffer.value.decode("utf-8", "replace")


class ErrorLog:
    """The engine's error lines since the last :meth:`clear`, the oldest first, ``LINES_MAX`` at most."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        # The engine keeps a bare pointer to the callback: it must live for as long as the process.
        self._callback = llama.llama_log_callback(self._keep)
        llama.llama_log_set(self._callback, None)

    def __repr__(self) -> str:
        return f"<ErrorLog {len(self._lines)} lines>"

    def clear(self) -> None:
        """Forget all lines."""
        self._lines.clear()

    def reason(self) -> str:
        """Return the first error since :meth:`clear`, the one nearest to the cause, or a fixed sentence."""
        if not self._lines:
            return "llama.cpp gives no reason"
        function, separator, message = self._lines[0].partition(": ")
        return message if separator else function

    def _keep(self, level: int, text: bytes, _user_data: int | None) -> None:
        if level == ERROR and text.strip():
            self._lines.append(text.decode("utf-8", "replace").strip())


@functools.cache
def start_llama() -> ErrorLog:
    """Start llama.cpp, the first time only, and return the log of its errors."""
    log = ErrorLog()
    llama.llama_backend_init()
    return log
