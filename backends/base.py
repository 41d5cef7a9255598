"""What every backend is: the protocol it implements, the facts it states, the errors it raises.

Nothing here knows a model library, a process or a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
"""The ids of one input, shape ``[tokens]``, special tokens included."""

Vectors = NDArray[np.float32]
"""One row per input, shape ``[inputs, dimensions]``, C-contiguous."""

CostRule = Literal["padded", "packed"]
"""What a batch costs: ``padded`` is the longest input times the count, ``packed`` the sum of lengths."""


class BackendError(Exception):
    """Root of what a backend may raise. Messages never contain a user's text.

    ::

        BackendError
        |-- LoadError     the model cannot be served at all; the message tells an operator why and what to do
        `-- EmbedError    the engine failed on this batch; the caller decides what to run again
            `-- OutOfMemory   it has no memory for a batch of this size
    """


class LoadError(BackendError):
    """The model cannot be served: a missing file, a wrong sum, an option that does not fit."""


class EmbedError(BackendError):
    """The engine failed on one batch. The backend is still usable."""


class OutOfMemory(EmbedError):
    """There is no memory for a batch of this size. The backend is still usable."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of a loaded model. Made by its backend, sent once to the gateway.

    Attributes:
        dimensions: width of a full vector.
        supported_dimensions: widths a client may ask for, ascending, the full width last.
        max_tokens: the longest input the model takes, in tokens, special tokens included.
        vocabulary_size: token ids are in ``range(vocabulary_size)``.
        prefix, suffix: the special token ids that stand before and after every text.
        prompts: name -> words that go before a text of that kind (``query``, ``document``, ...).
        default_prompt: name of the prompt used where a request names none.
        pooling: ``mean``, ``cls``, ``last``, ...
        normalized: whether vectors have unit length.
        dtype: of weights and arithmetic, as users write it (``fp32``, ``bf16``, ``q8_0``).
        device: where it runs (``cpu``, ``cuda:0``).
        runtime: what runs it (``torch``, ``llama.cpp``, ``fake``).
        fingerprint: id of the embedding space, see :mod:`embeddings_gateway.backends.fingerprint`.
        cost: how the cost of a batch in tokens is computed.
        batch_tokens: the largest cost of one batch, in tokens.
        batch_inputs: the largest number of inputs in one batch.
        created: when the weights were last changed, in Unix seconds.
        notes: what an operator should know of how it was loaded: that a slower way serves, and why.
    """

    dimensions: int
    supported_dimensions: tuple[int, ...]
    max_tokens: int
    vocabulary_size: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    prompts: dict[str, str]
    default_prompt: str | None
    pooling: str
    normalized: bool
    dtype: str
    device: str
    runtime: str
    fingerprint: str
    cost: CostRule
    batch_tokens: int
    batch_inputs: int
    created: int
    notes: tuple[str, ...] = ()


class Backend(Protocol):
    """One loaded model, living in a worker process.

    ``embed`` and ``close`` are called by one thread only, the one that built the backend. ``tokenize``
    may be called by other threads at the same time.
    """

    info: ModelInfo

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Turn each text into its ids, special tokens included, never cut. A text may have none.

        Raises:
            EmbedError: the tokenizer cannot take a text.
        """

    def embed(self, batch: Sequence[TokenIds]) -> Vectors:
        """Turn each input into its vector: row ``i`` belongs to ``batch[i]``.

        The caller guarantees one input at least, one token at least in each, none longer than
        ``info.max_tokens``, every id inside the vocabulary, and a cost and count within
        ``info.batch_tokens`` and ``info.batch_inputs`` (or a batch of one input).

        Raises:
            EmbedError: the engine failed; nothing is known of any row.
        """

    def close(self) -> None:
        """Give the memory back. Nothing is called afterwards."""
