"""The engine's batch structure over numpy arrays that are made once and filled for every call.

A Python loop over tokens would cost more than a small model does.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as llama

from embeddings_gateway.backends.gguf.pack import Pack


class TokenBatch:
    """A ``llama_batch`` with room for ``capacity`` tokens, each of one sequence."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._ids = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._sequences = np.zeros(capacity, dtype=np.int32)
        self._sequence_counts = np.ones(capacity, dtype=np.int32)
        # The engine wants one pointer per token to that token's list of sequences: here, of length one.
        addresses = np.arange(capacity, dtype=np.uintp) * self._sequences.itemsize
        self._sequence_pointers = addresses + self._sequences.ctypes.data
        self._outputs = np.zeros(capacity, dtype=np.int8)
        self._struct = self._bind()

    def __repr__(self) -> str:
        return f"<TokenBatch {self._struct.n_tokens} of {self.capacity} tokens>"

    def fill(self, pack: Pack, *, outputs: bool) -> Any:
        """Copy ``pack`` in and return the ``llama_batch``, valid until the next call.

        Args:
            pack: ``capacity`` tokens at most.
            outputs: whether the tokens' results are wanted, or only what they leave in the memory.
        """
        n = len(pack)
        self._ids[:n] = pack.ids
        self._positions[:n] = pack.positions
        self._sequences[:n] = pack.sequences
        self._outputs[:n] = outputs
        self._struct.n_tokens = n
        return self._struct

    def _bind(self) -> Any:
        return llama.llama_batch(
            n_tokens=0,
            token=_pointer(self._ids, ctypes.POINTER(llama.llama_token)),
            embd=None,
            pos=_pointer(self._positions, ctypes.POINTER(llama.llama_pos)),
            n_seq_id=_pointer(self._sequence_counts, ctypes.POINTER(ctypes.c_int32)),
            seq_id=_pointer(self._sequence_pointers, ctypes.POINTER(ctypes.POINTER(llama.llama_seq_id))),
            logits=_pointer(self._outputs, ctypes.POINTER(ctypes.c_int8)),
        )


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, kind)
