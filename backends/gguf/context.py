"""The contexts of one model, where tokens become vectors, on the one thread that made them.

llama.cpp answers a wrong argument with ``abort()``, or reads memory beyond an array. So every batch is checked
first: a broken promise of the caller costs one batch here, and the process there. Results are checked too.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Batch, EmbedError, LoadError, OutOfMemory, Vectors
from embeddings_gateway.backends.gguf.bindings import llama
from embeddings_gateway.backends.gguf.model import POOLINGS, LlamaModel, start_llama
from embeddings_gateway.backends.gguf.packing import (
    INPUTS_MAX,
    PREFILL_MIN,
    SEQUENCES,
    TILE_TOKENS,
    ContextTraits,
    PackedTokens,
    Pooled,
    Sizes,
    share_calls,
    short_sizes,
    up_to_multiple,
)

ALLOCATION_FAILED = -2
POOLING_TYPES = {name: value for value, name in POOLINGS.items()}


class Contexts:
    """The contexts of one model: one for calls of any size, and on a processor a second for short ones.

    Used by one thread. Must be closed before its model.
    """

    def __init__(self, model: LlamaModel, sizes: Sizes, pooling: str, threads: int) -> None:
        self._sizes = sizes
        self._vocabulary_size = model.facts.vocabulary_size
        self._dimensions = model.facts.dimensions
        self._any = Context(model, sizes, pooling, threads, flash=True)
        self._short = (
            None
            if model.on_gpu
            else Context(
                model, short_sizes(sizes), pooling, threads, flash=model.facts.quantised or sizes.in_chunks
            )
        )

    def __repr__(self) -> str:
        return f"<Contexts {self._any!r}>"

    def embed(self, batch: Batch) -> Vectors:
        """Return the pooled vectors of ``batch``, not normalised; row ``i`` belongs to input ``i``.

        Raises:
            EmbedError: the batch breaks a limit, or llama.cpp fails. The contexts can be used again.
        """
        check_batch(batch, self._sizes, self._vocabulary_size)
        inputs = batch.split()
        vectors = np.empty((len(batch), self._dimensions), dtype=np.float32)
        for rows in share_calls(batch.lengths, self._sizes.shared_tokens):
            call = Batch.of([inputs[i] for i in rows])
            vectors[rows] = self._context_for(call.tokens).embed(call)
        return vectors

    def close(self) -> None:
        """Free both. A second call does nothing."""
        self._any.close()
        if self._short:
            self._short.close()

    def _context_for(self, tokens: int) -> Context:
        is_short = up_to_multiple(tokens, self._sizes.multiple) < TILE_TOKENS
        return self._short if self._short and is_short else self._any


class Context:
    """A ``llama_context``, with flash attention or without.

    It pools each input into one vector, or, where inputs go through in chunks, gives the vector of each token.
    """

    def __init__(self, model: LlamaModel, sizes: Sizes, pooling: str, threads: int, *, flash: bool) -> None:
        self._dimensions = model.facts.dimensions
        self._sizes = sizes
        self._pooling = pooling
        self._batch = TokenBatch(sizes.call_tokens)
        params = _params("none" if sizes.in_chunks else pooling, threads, on_gpu=model.on_gpu, flash=flash)
        params.n_ctx = max(sizes.capacity + TILE_TOKENS, sizes.call_tokens)  # a few are filled up
        params.n_batch = params.n_ubatch = sizes.call_tokens
        params.n_seq_max = SEQUENCES
        params.n_outputs_max = sizes.call_outputs
        self._pointer: Any = _open(model, params)
        self._memory = llama.llama_get_memory(self._pointer)
        self._call = llama.llama_encode if model.facts.route == "encode" else llama.llama_decode
        self._filled = 0
        self._tainted = False

    def __repr__(self) -> str:
        return f"<Context {'open' if self._pointer else 'closed'} {self._sizes}>"

    def embed(self, batch: Batch) -> Vectors:
        """Return the pooled vectors of a checked batch. See :meth:`Contexts.embed`."""
        if self._memory:
            # After a failure its numbers are cleared too, for a NaN times a mask of zero is a NaN.
            llama.llama_memory_clear(self._memory, self._tainted)
        self._filled = 0
        self._tainted = False
        packed = PackedTokens.of(batch)
        if self._sizes.in_chunks:
            vectors = self._embed_in_chunks(packed, batch.lengths)
        else:
            self._compute(packed, outputs=True)
            vectors = self._collect(len(batch))
        self._tainted = not np.isfinite(vectors).all()
        return vectors

    def close(self) -> None:
        """Free the context. A second call does nothing."""
        if self._pointer:
            llama.llama_free(self._pointer)
            self._pointer = None

    def _embed_in_chunks(self, packed: PackedTokens, lengths: NDArray[np.int32]) -> Vectors:
        if self._pooling == "last" and len(packed) > max(2 * self._sizes.tail_tokens, PREFILL_MIN):
            packed = self._prefill(packed)
        pooled = Pooled(self._pooling, lengths, self._dimensions)
        for chunk in packed.chunks(self._sizes.call_outputs):
            self._compute(chunk, outputs=True)
            pooled.add(chunk, self._token_vectors(len(chunk)))
        return pooled.vectors()

    def _prefill(self, packed: PackedTokens) -> PackedTokens:
        """Put all but the last few tokens of each input into the memory, and return those.

        Beside bounding a call, this keeps the engine from multiplying every token by the whole vocabulary,
        which it does for each token that is output.
        """
        before, tails = packed.split_tails(self._sizes.tail_tokens)
        llama.llama_set_embeddings(self._pointer, False)
        try:
            for chunk in before.chunks(self._sizes.call_tokens):
                self._compute(chunk, outputs=False)
        finally:
            llama.llama_set_embeddings(self._pointer, True)
        return tails

    def _compute(self, packed: PackedTokens, *, outputs: bool) -> None:
        filled_up = packed.filled_up(self._sizes.multiple, self._filled)
        self._filled += len(filled_up) - len(packed)
        code = self._call(self._pointer, self._batch.fill(filled_up, outputs=outputs))
        if code != 0:
            self._tainted = True
            kind = OutOfMemory if code == ALLOCATION_FAILED else EmbedError
            raise kind(f"llama.cpp failed with code {code} on {len(packed)} tokens")

    def _collect(self, inputs: int) -> Vectors:
        """Return the vectors of whole inputs, which the engine has pooled."""
        rows = [llama.llama_get_embeddings_seq(self._pointer, i) for i in range(inputs)]
        return np.stack([self._array(row, (self._dimensions,)) for row in rows])

    def _token_vectors(self, tokens: int) -> Vectors:
        """Return the vectors of the first tokens of the last call, valid until the next one."""
        return self._array(llama.llama_get_embeddings(self._pointer), (tokens, self._dimensions))

    def _array(self, pointer: Any, shape: tuple[int, ...]) -> Vectors:
        if not pointer:
            self._tainted = True
            raise EmbedError("llama.cpp has no vector for an input")
        return np.ctypeslib.as_array(pointer, shape=shape)


def read_traits(model: LlamaModel) -> ContextTraits:
    """Ask a context of the smallest size for what the model itself does not tell."""
    params = _params(pooling="none", threads=1, on_gpu=False, flash=False)
    params.n_ctx = params.n_batch = params.n_ubatch = params.n_seq_max = 1
    pointer = _open(model, params)
    traits = ContextTraits(
        has_memory=bool(llama.llama_get_memory(pointer)), causal=llama.llama_get_causal_attn(pointer)
    )
    llama.llama_free(pointer)
    return traits


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


def _open(model: LlamaModel, params: Any) -> Any:
    log = start_llama()
    log.clear()
    pointer = llama.llama_init_from_model(model.pointer, params)
    if not pointer:
        raise LoadError(f"llama.cpp cannot make a context: {log.reason()}")
    return pointer


def check_batch(batch: Batch, sizes: Sizes, vocabulary_size: int) -> None:
    """Refuse a batch that does not fit the context, with an ``EmbedError``."""
    if not 1 <= len(batch) <= INPUTS_MAX:
        raise EmbedError(f"a batch of {len(batch)} inputs; from 1 to {INPUTS_MAX} are possible")
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


class TokenBatch:
    """A ``llama_batch`` over numpy arrays that are made once and filled for every call.

    It has room for ``capacity`` tokens, each of one sequence. A Python loop over tokens would cost more than
    a small model does.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._ids = np.zeros(capacity, dtype=np.int32)
        self._position_ids = np.zeros(capacity, dtype=np.int32)
        self._sequence_ids = np.zeros(capacity, dtype=np.int32)
        self._sequence_id_counts = np.ones(capacity, dtype=np.int32)
        # The engine wants one pointer per token to that token's list of sequences: here, of length one.
        addresses = np.arange(capacity, dtype=np.uintp) * self._sequence_ids.itemsize
        self._sequence_id_pointers = addresses + self._sequence_ids.ctypes.data
        self._outputs = np.zeros(capacity, dtype=np.int8)
        self._struct = llama.llama_batch(
            n_tokens=0,
            token=_pointer(self._ids, ctypes.POINTER(llama.llama_token)),
            embd=None,
            pos=_pointer(self._position_ids, ctypes.POINTER(llama.llama_pos)),
            n_seq_id=_pointer(self._sequence_id_counts, ctypes.POINTER(ctypes.c_int32)),
            seq_id=_pointer(self._sequence_id_pointers, ctypes.POINTER(ctypes.POINTER(llama.llama_seq_id))),
            logits=_pointer(self._outputs, ctypes.POINTER(ctypes.c_int8)),
        )

    def __repr__(self) -> str:
        return f"<TokenBatch {self._struct.n_tokens} of {self.capacity} tokens>"

    def fill(self, packed: PackedTokens, *, outputs: bool) -> Any:
        """Copy at most ``capacity`` tokens in and return the ``llama_batch``, valid until the next call.

        ``outputs``: whether the tokens' results are wanted, or only what they leave in the memory.
        """
        n = len(packed)
        self._ids[:n] = packed.ids
        self._position_ids[:n] = packed.position_ids
        self._sequence_ids[:n] = packed.sequence_ids
        self._outputs[:n] = outputs
        self._struct.n_tokens = n
        return self._struct


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, kind)
