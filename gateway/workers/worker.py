"""What the batcher and the model know of a worker: a protocol, so that it may be anywhere.

``supervisor`` implements it for a process on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from backends.base import ModelInfo, TokenIds, Vectors


class WorkerLost(Exception):
    """The worker went away with the call unanswered, or there is none. Nothing is known of the call."""


class CallFailed(Exception):
    """The worker answered that the call failed. It is still usable. The message holds no user's text."""


class Timed(NamedTuple):
    """Vectors, float32 ``[inputs, dimensions]``, and how long the engine took for them."""

    vectors: Vectors
    seconds: float


class Worker(Protocol):
    """One model replica, somewhere."""

    @property
    def info(self) -> ModelInfo | None:
        """The facts of its model, or ``None`` while it cannot take a call."""

    async def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Turn each text into its ids.

        Raises:
            WorkerLost, CallFailed: no answer, or a failure.
        """

    async def embed(self, batch: Sequence[TokenIds]) -> Timed:
        """Turn each input into its vector.

        Raises:
            WorkerLost, CallFailed: no answer, or a failure.
        """

    async def ping(self) -> float:
        """Return how many seconds the batch being computed has run, 0 if idle.

        Raises:
            WorkerLost: it does not answer.
        """
