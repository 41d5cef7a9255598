"""The engine's context: where tokens become vectors, on the one thread that made it.

llama.cpp ends the process on a wrong argument: ``guard`` has checked every batch before it
comes here. What it returns is checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as llama

from embeddings_gateway.backends.base import EmbedError, LoadError, OutOfMemory, TokenIds, Vectors
from embeddings_gateway.backends.gguf import library
from embeddings_gateway.backends.gguf.batch import TokenBatch
from embeddings_gateway.backends.gguf.facts import POOLINGS
from embeddings_gateway.backends.gguf.model import Model
from embeddings_gateway.backends.gguf.pack import Pack
from embeddings_gateway.backends.gguf.sizes import SEQUENCES_MAX, TILE_TOKENS, Sizes, Traits

ALLOCATION_FAILED = -2
POOLING_TYPES = {name: value for value, name in POOLINGS.items()}


def probe(model: Model) -> Traits:
    """Ask a context of the smallest size for what the model itself does not tell.

    Raises:
        LoadError: the engine cannot make a context for this model.
    """
    params = _params(pooling="none", threads=1, on_gpu=False, flash=False)
    params.n_ctx = params.n_batch = params.n_ubatch = params.n_seq_max = 1
    pointer = _open(model, params)
    traits = Traits(
        has_memory=bool(llama.llama_get_memory(pointer)), causal=llama.llama_get_causal_attn(pointer)
    )
    llama.llama_free(pointer)
    return traits


class Context:
    """A ``llama_context`` that pools each sequence into one vector.

    Used by one thread. Must be closed before its model.
    """

    def __init__(self, model: Model, sizes: Sizes, pooling: str, threads: int, *, flash: bool) -> None:
        """Make the context, with flash attention where the device has it, or without.

        Raises:
            LoadError: it does not fit into memory, or the engine refuses it.
        """
        self._facts = model.facts
        self._sizes = sizes
        self._batch = TokenBatch(sizes.call_tokens)
        params = _params(pooling, threads, on_gpu=model.on_gpu, flash=flash)
        params.n_ctx = sizes.capacity
        params.n_batch = params.n_ubatch = sizes.call_tokens
        params.n_seq_max = SEQUENCES_MAX
        params.n_outputs_max = sizes.call_outputs
        self._pointer: Any = _open(model, params)
        self._memory = llama.llama_get_memory(self._pointer)
        self._call = llama.llama_encode if model.facts.route == "encode" else llama.llama_decode
        self._tainted = False

    def __repr__(self) -> str:
        return f"<Context {'open' if self._pointer else 'closed'} {self._sizes}>"

    def embed(self, batch: Sequence[TokenIds]) -> Vectors:
        """Return the pooled vectors of a checked batch, not normalised; row ``i`` belongs to ``batch[i]``.

        Raises:
            EmbedError: the engine fails. The context can be used again.
        """
        self._forget()
        pack = Pack.of(batch)
        if len(pack) > self._sizes.call_outputs:
            pack = self._prefill(pack)
        self._compute(pack, outputs=True)
        return self._collect(len(batch))

    def close(self) -> None:
        """Give the memory back. A second call does nothing."""
        if self._pointer:
            llama.llama_free(self._pointer)
            self._pointer = None

    def _prefill(self, pack: Pack) -> Pack:
        """Put all but the last few tokens of each input into the memory, and return those.

        Beside bounding a call, this keeps the engine from multiplying every token by the whole vocabulary,
        which it does for each token that is output.
        """
        before, tails = pack.split_tails(TILE_TOKENS)
        llama.llama_set_embeddings(self._pointer, False)
        try:
            for chunk in before.chunks(self._sizes.call_tokens):
                self._compute(chunk, outputs=False)
        finally:
            llama.llama_set_embeddings(self._pointer, True)
        return tails

    def _compute(self, pack: Pack, *, outputs: bool) -> None:
        code = self._call(self._pointer, self._batch.fill(pack, outputs=outputs))
        if code != 0:
            self._tainted = True
            kind = OutOfMemory if code == ALLOCATION_FAILED else EmbedError
            raise kind(f"llama.cpp failed with code {code} on {len(pack)} tokens")

    def _collect(self, inputs: int) -> Vectors:
        vectors = np.empty((inputs, self._facts.width), dtype=np.float32)
        for i in range(inputs):
            row = llama.llama_get_embeddings_seq(self._pointer, i)
            if not row:
                self._tainted = True
                raise EmbedError(f"llama.cpp has no vector for input {i} of {inputs}")
            vectors[i] = np.ctypeslib.as_array(row, shape=(self._facts.width,))
        self._tainted = not np.isfinite(vectors).all()
        return vectors

    def _forget(self) -> None:
        """Empty the memory; after a failure also its numbers, for a NaN times a mask of zero is a NaN."""
        if self._memory:
            llama.llama_memory_clear(self._memory, self._tainted)
        self._tainted = False


def _params(pooling: str, threads: int, *, on_gpu: bool, flash: bool) -> Any:
    params = llama.llama_context_default_params()
    params.embeddings = True
    params.pooling_type = POOLING_TYPES[pooling]
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = True  # one buffer for all sequences: a long input may use all of it
    # Without it attention costs the square of the whole batch.
    params.flash_attn_type = (
        llama.LLAMA_FLASH_ATTN_TYPE_AUTO if flash else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.offload_kqv = params.op_offload = on_gpu
    params.no_perf = True
    return params


def _open(model: Model, params: Any) -> Any:
    log = library.start()
    log.clear()
    pointer = llama.llama_init_from_model(model.pointer, params)
    if not pointer:
        raise LoadError(f"llama.cpp cannot make a context: {log.reason()}")
    return pointer
