"""What is known of a worker: a protocol, so that it may be anywhere.

``supervisor`` implements it for a process on this machine; ``replicas`` makes one of several.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

from embeddings_gateway.backends.base import ModelInfo, TokenIds, Vectors

State = Literal["ready", "searching", "restarting", "loading", "broken", "failed", "stopped"]
"""Best first. ``searching`` while it is there only for who looks for a guilty input; ``restarting`` after a
death, while it is worth waiting; ``loading`` until the model is loaded for the first time; ``broken`` after
too many deaths, or while a start takes far too long, until it has been started well; ``failed`` once it is
hopeless."""

OVER: Collection[State] = ("failed", "stopped")
"""It will never be ready again."""


class WorkerLost(Exception):
    """The worker went away before it came to the call, or there is none to call. It may be made again."""


class CallFailed(Exception):
    """The call failed, perhaps by its own doing; unless this is :class:`WorkerDied`, the worker can be used.

    The message holds no user's text.
    """


class WorkerDied(CallFailed):
    """The worker ended while it may have worked on the call."""


class OutOfMemory(CallFailed):
    """There was no memory for a call of this size."""


class DiedOutOfMemory(WorkerDied, OutOfMemory):
    """The system ended the worker because there was no memory left."""


class WrongAnswer(CallFailed):
    """The answer is not one of the right form for each item: nothing of it can be trusted."""


class Mistaken(WrongAnswer):
    """The answer looks right, but is not what an item gets by itself: only such answers can be trusted."""


class Timed(NamedTuple):
    """Vectors, float32 ``[inputs, dimensions]``, and how many seconds the engine took for them."""

    vectors: Vectors
    seconds: float


class Worker(Protocol):
    """One model replica, somewhere. Belongs to one event loop."""

    @property
    def info(self) -> ModelInfo | None:
        """The facts of its model, or ``None`` until it was loaded for the first time."""

    @property
    def tokens_per_s(self) -> float:
        """How fast it was in its self-test; 0 before."""

    @property
    def ready(self) -> bool:
        """Whether it takes a call now."""

    @property
    def state(self) -> State:
        """How it is."""

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

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Have the worker to oneself, once the calls made before are answered.

        Inside, a call waits for a worker that is being started again. Nobody else calls: it is not ``ready``.
        """

    async def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Turn each text into its ids.

        Raises:
            WorkerLost, CallFailed: no answer, or a failure.
        """

    async def embed(self, batch: Sequence[TokenIds], seconds_max: float) -> Timed:
        """Turn each input into its vector; a worker that computes longer than it may is ended.

        Raises:
            WorkerLost, CallFailed: no answer, or a failure.
        """

    async def check(self) -> str:
        """Test the model again; return what is wrong with it, empty if nothing is.

        Raises:
            WorkerLost, WorkerDied: no answer.
        """

    def explained(self, deaths: int) -> None:
        """Note that the last so many deaths were an input's doing, and no sign that the worker is sick.

        Called by who has the worker to himself, once. Deaths meanwhile that nobody explains do count.
        """

    async def replace(self, reason: str) -> None:
        """End the worker's process, which is started anew."""

    async def ping(self) -> float:
        """Return how many seconds the batch being computed has run, 0 if idle.

        Raises:
            WorkerLost: it does not answer.
        """
