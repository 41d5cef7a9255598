"""The contract of the runtimes that compute a Network, and what they share: padding, and the best batch size."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Batch, CostRule, Vectors
from embeddings_gateway.backends.hf.files.tokenizer_settings import TokenizerSettings

Dtype = Literal["fp32", "bf16", "fp16", "int8"]

Padded = NDArray[np.int64]
"""A batch as one array, shape ``[inputs, tokens]``, rows padded on the right."""

CPU_CANDIDATES = (256, 512, 1024, 2048)
GPU_CANDIDATES = (4096, 8192, 16384, 32768)
SECONDS_MAX = 2.0
INPUT_TOKENS = 32
ROUNDS = 3
NEAR_BEST = 0.98


class TransformerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a transformer that every runtime needs; stored with its conversion.

    Attributes:
        pad_id: the id that fills rows; models that number positions by it (RoBERTa, MPNet) need the true one.
        positions: the longest input that it has positions for; ``None``: it has no such limit.
        vocabulary_size: number of token embeddings.
        causal: whether a token sees only those before it.
    """

    pad_id: int
    positions: int | None
    vocabulary_size: int
    causal: bool


class RuntimeChoice(NamedTuple):
    """What computes a model: the engine, ``cpu`` or ``cuda:N``, and the dtype of the transformer's arithmetic."""

    runtime: Literal["torch", "openvino"]
    device: str
    dtype: Dtype


class Runtime(Protocol):
    """An engine that holds one Network. Used by one thread.

    Attributes:
        name: ``torch`` or ``openvino``.
        dtype: of weights and arithmetic in the transformer, as users write it.
        device: where it runs, with its number where there may be several.
        cost: what a batch costs: ``padded`` or ``packed``.
    """

    name: str
    dtype: Dtype
    device: str
    cost: CostRule

    def run(self, batch: Batch) -> Vectors:
        """Compute one vector per input: row ``i`` belongs to input ``i``.

        Args:
            batch: at least one input, at least one token in each, every id one that the network knows.

        Raises:
            EmbedError: the engine failed. The message holds nothing of the input.
        """

    def close(self) -> None:
        """Free the memory."""


class LoadedModel(NamedTuple):
    """A model in a runtime.

    Attributes:
        converted: the directory of its conversion, if it runs from one.
        batch_tokens: the cost of a batch from which on it gets no faster, if that is known.
        notes: what an operator should know.
        tokenizer: the settings that its tokenizer heeds.
    """

    runtime: Runtime
    facts: TransformerFacts
    tokenizer: TokenizerSettings
    converted: Path | None = None
    batch_tokens: int | None = None
    notes: tuple[str, ...] = ()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an engine ran out of memory; not every engine has its own exception for that."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or "alloc" in message or "out of memory" in message


def pad(batch: Batch, pad_id: int, length: int = 0) -> tuple[Padded, Padded]:
    """Pad every input on the right to one length, ``length`` at least; return ids and mask.

    On the right each token stands at the position that it has when its input is alone. That is right for
    models with a table of positions and for decoders alike, without position ids.
    """
    present = np.arange(max(length, batch.lengths.max())) < batch.lengths[:, None]
    ids = np.full(present.shape, pad_id, np.int64)
    ids[present] = batch.ids
    return ids, present.astype(np.int64)


def best_batch_tokens(run: Callable[[Batch], object], device: str, token: int, max_tokens: int) -> int:
    """Measure the smallest batch, in tokens, that is about as fast as any: a larger one only adds latency.

    ``token`` is any id of the vocabulary, ``max_tokens`` the longest input that the model takes.
    """
    speeds: dict[int, float] = {}
    length = min(INPUT_TOKENS, max_tokens)
    end = time.perf_counter() + SECONDS_MAX
    for tokens in CPU_CANDIDATES if device == "cpu" else GPU_CANDIDATES:
        batch = Batch.of([np.full(length, token, np.int32)] * (tokens // length))
        speeds[tokens] = tokens / _batch_seconds(run, batch)
        if time.perf_counter() >= end:
            break
    best = max(speeds.values())
    return next(tokens for tokens, speed in speeds.items() if speed >= NEAR_BEST * best)


def _batch_seconds(run: Callable[[Batch], object], batch: Batch) -> float:
    """Return the shortest time of a batch in several rounds, after one that compiles its kernels."""
    run(batch)
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run(batch)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
