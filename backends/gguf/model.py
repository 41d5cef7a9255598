"""The loaded weights: opened, asked for their facts, freed. Contexts and tokens are left to others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as llama

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.gguf import facts, library


class Model:
    """A ``llama_model``, mapped into memory. Must outlive the contexts made from it.

    Attributes:
        path: the file.
        pointer: the ``llama_model``, for the engine's functions.
        facts: what the file says.
        on_gpu: whether any layer was put on a GPU.
    """

    def __init__(self, path: Path, n_gpu_layers: int) -> None:
        """Load the file.

        Args:
            path: a file that passed :func:`embeddings_gateway.backends.gguf.header.check`.
            n_gpu_layers: layers put on the GPU; -1 is all of them.

        Raises:
            LoadError: llama.cpp refuses the file, or was built without GPU support and is asked for it.
        """
        log = library.start()
        if n_gpu_layers and not llama.llama_supports_gpu_offload():
            raise LoadError(
                f"n_gpu_layers is {n_gpu_layers}, but this llama-cpp-python is built for processors only: "
                "set n_gpu_layers = 0, or install it with CMAKE_ARGS=-DGGML_CUDA=on"
            )
        self.path = path
        self.on_gpu = n_gpu_layers != 0
        log.clear()
        self.pointer: Any = llama.llama_model_load_from_file(os.fsencode(path), _params(n_gpu_layers))
        if not self.pointer:
            raise LoadError(f"{path}: llama.cpp cannot load it: {log.reason()}")
        if llama.llama_vocab_type(self.vocabulary) == llama.LLAMA_VOCAB_TYPE_NONE:
            self.close()
            raise LoadError(f"{path}: has no tokenizer; convert the model again, with its tokenizer files")
        self.facts = facts.read(self.pointer)

    def __repr__(self) -> str:
        state = f"{self.facts.architecture} {self.facts.dtype}" if self.pointer else "closed"
        return f"<Model {self.path.name} {state}>"

    @property
    def vocabulary(self) -> Any:
        """The ``llama_vocab``, owned by the model; may be read by any thread."""
        return llama.llama_model_get_vocab(self.pointer)

    def close(self) -> None:
        """Give the weights back. A second call does nothing."""
        if self.pointer:
            llama.llama_model_free(self.pointer)
            self.pointer = None


def _params(n_gpu_layers: int) -> Any:
    params = llama.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    return params
