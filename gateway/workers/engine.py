"""What computes a model's batches: the protocol of an engine, its states, its results and its errors.

``local.supervisor`` implements it with a process on this machine. ``dispatcher`` and ``isolation`` know only
this protocol, so an engine may run anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

from embeddings_gateway.backends.base import Batch, Column, ModelInfo, Output, Part

State = Literal["ready", "searching", "restarting", "loading", "broken", "failed", "stopped"]
"""Best first.

- ``ready``: it takes calls.
- ``searching``: a search for a failing input uses it, or waits for its worker, which crashed.
- ``restarting``: its worker crashed and will soon be back; calls may wait.
- ``loading``: the model has not been loaded yet.
- ``broken``: it crashed too often, or its restart takes far too long; calls are refused until it is ready.
- ``failed``: the model cannot be served.
- ``stopped``: the gateway stopped it.
"""

FINAL: Collection[State] = ("failed", "stopped")
"""An engine in such a state will never be ready again."""

HANG_FACTOR = 20.0
"""A call that takes so many times as long as the measured speed predicts counts as hung."""


class WorkerGone(Exception):
    """No worker can take the call, or it ended before it began the call. The call may be made again."""


class CallFailed(Exception):
    """The call failed, and may be the cause. The engine stays usable, unless it is a :class:`WorkerCrashed`.

    The message never contains a user's text.

    ::

        CallFailed
        |-- WorkerCrashed           the worker ended, and may have been working on the call
        |-- EngineOutOfMemory       there was no memory for a call of this size
        |   `-- CrashedOutOfMemory  the system killed the worker for lack of memory; also a WorkerCrashed
        `-- InvalidResult           the result does not have the requested form
            `-- BatchMismatch       the results look right, but an input has another one alone
    """


class WorkerCrashed(CallFailed):
    """The worker ended, and may have been working on the call."""


class EngineOutOfMemory(CallFailed):
    """There was no memory for a call of this size."""


class CrashedOutOfMemory(WorkerCrashed, EngineOutOfMemory):
    """The system killed the worker because memory ran out."""


class InvalidResult(CallFailed):
    """The result does not have the requested form: no part of it can be trusted."""


class BatchMismatch(InvalidResult):
    """The results look right, but an input has another one alone. Trust only results of single inputs."""


class SearchAborted(Exception):
    """A search costs too many crashes, or too many searches wait. Items that are still unknown are not blamed."""


class EngineResult(NamedTuple):
    """One column for each output, and the seconds that the engine computed."""

    columns: dict[Output, Column]
    seconds: float


class Loaded(NamedTuple):
    """What an engine has loaded.

    Attributes:
        info: the facts.
        reference: the outputs of the self-test's probes.
    """

    info: ModelInfo
    reference: Mapping[Output, Column]


class TokenizeResult(NamedTuple):
    """The ids of texts.

    Attributes:
        batch: one input for each text.
        declined: text -> why the tokenizer cannot take it, without the text itself. Such a text has no ids.
        certain: begin and end of the characters that the ids are of, for a part of a longer text.
    """

    batch: Batch
    declined: Mapping[int, str] = {}
    certain: tuple[int, int] | None = None


class Supervised(Protocol):
    """What only an engine in a process of ours offers. ``isolation`` blames inputs for crashes only with it."""

    def search(self) -> AbstractAsyncContextManager[None]:
        """Wait until the searches before this one have ended. The engine still takes other calls.

        Raises:
            SearchAborted: too many searches wait.
        """

    def rerun(self) -> AbstractAsyncContextManager[None]:
        """Wait until other single items that failed have run again. The engine still takes other calls."""

    def step(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        """Wait until searches may take more of the engine's time, which others use meanwhile.

        Args:
            exclusive: whether to wait also until the open calls have ended, and to take no others. Then calls
                inside wait for a worker that is restarting, and the engine is not ``ready``.

        Raises:
            WorkerGone: no worker will be there soon.
        """

    async def check(self) -> str:
        """Run the self-test again; return what is wrong with the model, empty if nothing is.

        Raises:
            WorkerGone, WorkerCrashed: the self-test did not end.
        """

    async def replace(self, reason: str) -> None:
        """Kill the worker's process and wait until it has ended. Another one is started."""

    def exonerate(self, crashes: int) -> None:
        """Do not count the last ``crashes`` against the worker: inputs caused them.

        Called once, inside :meth:`search`. Other crashes of its steps count when it ends.
        """


class Engine(Protocol):
    """One replica of a model, somewhere. Belongs to one event loop."""

    @property
    def info(self) -> ModelInfo | None:
        """The model's facts, ``None`` until it was loaded for the first time."""

    @property
    def state(self) -> State:
        """Its current state."""

    @property
    def reason(self) -> str:
        """Why it is not ready; empty if it is."""

    @property
    def ready(self) -> bool:
        """Whether it takes a call now."""

    @property
    def tokens_per_s(self) -> float:
        """Its speed in the self-test; 0 while unknown."""

    @property
    def supervised(self) -> Supervised | None:
        """What isolation uses during a search; ``None`` if the engine does not run in a process of ours."""

    def start(self) -> None:
        """Start loading the model; :attr:`state` tells the progress."""

    async def first_attempt(self) -> None:
        """Wait until the first attempt to load the model has succeeded or failed."""

    async def stop(self) -> None:
        """Stop for good. Open calls fail with :class:`WorkerGone`."""

    async def ping(self) -> float:
        """Return how many seconds the current batch has been computed, 0 if there is none.

        Raises:
            WorkerGone, CallFailed: there is no answer.
        """

    async def tokenize(
        self, texts: Sequence[str], text_pairs: Sequence[str] | None = None, part: Part | None = None
    ) -> TokenizeResult:
        """Return the token ids of each text, of each pair of texts, or of one text that is a part of a longer one.

        If it is cancelled, it ends only when the engine does not work on the texts any more.

        Raises:
            WorkerGone, CallFailed: there is no result.
        """

    async def run(self, batch: Batch, outputs: Sequence[Output], timeout_s: float) -> EngineResult:
        """Compute these outputs for each input. An engine that takes longer than ``timeout_s`` may be killed.

        Raises:
            WorkerGone, CallFailed: there is no result.
        """


class MakeEngine(Protocol):
    """Makes one engine."""

    def __call__(self, *, accepts: Callable[[Loaded], str], on_change: Callable[[], None]) -> Engine:
        """Return an engine.

        Args:
            accepts: is asked each time before the engine serves; returns why it must not, or nothing.
            on_change: called after every change of its state.
        """
