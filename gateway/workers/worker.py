"""What is known of a worker: a protocol, so that it may be anywhere.

``supervisor`` implements it for a process on this machine; ``replicas`` makes one of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from backends.base import ModelInfo, TokenIds, Vectors

State = Literal["ready", "loading", "failed", "stopped"]


class WorkerLost(Exception):
    """The worker went away with the call unanswered, or there is none. Nothing is known of the call."""


class CallFailed(Exception):
    """The worker answered that the call failed. It is still usable. The message holds no user's text."""


class Timed(NamedTuple):
    """Vectors, float32 ``[inputs, dimensions]``, and how many seconds the engine took for them."""

    vectors: Vectors
    seconds: float


class Worker(Protocol):
    """One model replica, somewhere. Belongs to one event loop."""

    @property
    def info(self) -> ModelInfo | None:
        """The facts of its model, or ``None`` while it cannot take a call."""

    @property
    def state(self) -> State:
        """``loading`` until its model is loaded and again after a death; ``failed`` if that is hopeless."""

    @property
    def reason(self) -> str:
        """Why it is not ready; empty if it is."""

    @property
    def calls(self) -> int:
        """How many calls it has not answered yet."""

    def start(self) -> None:
        """Begin to load the model; :attr:`state` tells how it goes."""

    async def attempted(self) -> None:
        """Wait until the first attempt to load the model has ended, well or badly."""

    async def stop(self) -> None:
        """End, for good."""

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
