"""PURE: what a client's name for a model stands for (:class:`Served`), a call to it and its result.

They are the same for HTTP, for the library and for the command line, which see :class:`Served` only. ``local``
implements it with engines of this gateway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, Self

from typing_extensions import TypeIs

from embeddings_gateway.backends.base import Batch, Column, ModelInfo, Output, Vectors
from embeddings_gateway.batching.request import ANONYMOUS
from embeddings_gateway.batching.request import Caller as Caller  # noqa: PLC0414 - for those that make calls
from embeddings_gateway.config import InputType, Truncate
from embeddings_gateway.errors import GatewayError, InvalidRequest, SpaceMismatch, TooManyTokens
from embeddings_gateway.workers.engine import State

Texts = list[str]
IdLists = list[list[int]]
Pairs = list[tuple[str, str]]
Inputs = Texts | IdLists | Pairs


def are_texts(inputs: Inputs) -> TypeIs[Texts]:
    """Return whether the inputs are texts: all are of one kind."""
    return isinstance(inputs[0], str)


def are_pairs(inputs: Inputs) -> TypeIs[Pairs]:
    """Return whether the inputs are pairs of texts."""
    return isinstance(inputs[0], tuple)


class InputLimits(NamedTuple):
    """Limits on one input, whatever the model.

    Attributes:
        max_chars: characters of a text, before it is tokenized.
        max_ids: token ids of an input that is sent as token ids.
    """

    max_chars: int
    max_ids: int

    def error(self, value: str | Sequence[int]) -> InvalidRequest | None:
        """Return what is wrong with an input; ``None`` if nothing is."""
        if not value:
            return InvalidRequest("An input must not be empty.")
        if isinstance(value, str):
            if len(value) > self.max_chars:
                return InvalidRequest(f"An input has at most {self.max_chars} characters.")
        elif len(value) > self.max_ids:
            return TooManyTokens(f"An array has at most {self.max_ids} token ids.")
        return None


class CallOptions(NamedTuple):
    """How the inputs of a call are treated.

    Attributes:
        dimensions: columns of the dense vectors; ``None`` is what the model gives by default.
        truncate: what happens to an input that is too long; ``None`` is the model's setting.
        input_type: ``query`` or ``document``, for models with prompts; ``None`` is the model's default prompt.
        partial: whether an input may fail without failing the others.
        expected_fingerprint: of the embedding space that the client has pinned.
    """

    dimensions: int | None = None
    truncate: Truncate | None = None
    input_type: InputType | None = None
    partial: bool = False
    expected_fingerprint: str | None = None


DEFAULTS = CallOptions()


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model: made once where it enters the gateway, and passed on as it is.

    Attributes:
        inputs: texts, lists of token ids, or pairs of texts; at least one.
        outputs: what is computed of them, in one forward pass; if empty, they are only tokenized.
        options: how they are treated.
        refused: input -> its error, for inputs that were refused already; empty unless ``partial``.
        caller: who asks.
        deadline: when it has to be done, in monotonic seconds.
        timings: phase -> seconds. Each phase writes its own; headers, log and metrics read them.
    """

    inputs: Inputs
    outputs: tuple[Output, ...] = ("dense",)
    options: CallOptions = DEFAULTS
    refused: Mapping[int, GatewayError] = field(default_factory=dict)
    caller: Caller = ANONYMOUS
    deadline: float = math.inf
    timings: dict[str, float] = field(default_factory=dict)

    def part(self, inputs: Inputs, refused: Mapping[int, GatewayError]) -> Self:
        """Return the same call for some of its inputs, with timings of its own."""
        return replace(self, inputs=inputs, refused=refused, timings={})


def check_supported(call: Call, info: ModelInfo) -> None:
    """Check that a model offers what a call asks for.

    Raises:
        InvalidRequest, SpaceMismatch: the model does not offer it.
    """
    options = call.options
    if options.expected_fingerprint not in (None, info.fingerprint):
        raise SpaceMismatch(
            f"The model's embedding space is {info.fingerprint}, the request expects another one.", "model"
        )
    if options.dimensions is not None and options.dimensions not in info.supported_dimensions:
        offered = ", ".join(map(str, info.supported_dimensions))
        raise InvalidRequest(f"The model offers these dimensions: {offered}.", "dimensions")
    if options.dimensions is not None and "dense" not in call.outputs:
        raise InvalidRequest("Only dense vectors have dimensions to choose.", "dimensions")
    if set(call.outputs) - set(info.outputs):
        raise InvalidRequest(f"The model has these outputs: {', '.join(info.outputs)}.", "output")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a call.

    Attributes:
        columns: output -> its values, one entry for each input; entries of failed inputs have no meaning.
        errors: input -> why it has no result; empty unless the call is ``partial``.
        batch: the token ids that the model saw, special tokens included; a row for each input, or for each
            window of one.
        truncated: inputs that were cut.
        averaged: inputs whose vectors are averages of several windows.
        prompt: the name of the prompt that went before the texts.
    """

    columns: dict[Output, Column]
    errors: Mapping[int, GatewayError]
    batch: Batch
    truncated: Sequence[int]
    averaged: Sequence[int]
    prompt: str | None

    @property
    def tokens(self) -> int:
        """How many tokens the model saw."""
        return self.batch.tokens

    @property
    def vectors(self) -> Vectors:
        """The dense vectors, float32 ``[inputs, dimensions]``."""
        return self.columns["dense"].values


class Served(Protocol):
    """A model that clients can call by its name. Belongs to one event loop."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""

    @property
    def aliases(self) -> Sequence[str]:
        """Its other names."""

    @property
    def backend(self) -> str:
        """The kind of its backend, such as ``hf``."""

    @property
    def info(self) -> ModelInfo | None:
        """The facts of its model; ``None`` until it is loaded for the first time."""

    @property
    def state(self) -> State:
        """Its current state."""

    @property
    def reason(self) -> str:
        """Why it is not ready; empty if it is."""

    def check(self, call: Call) -> ModelInfo:
        """Return the model's facts, if it offers what a call asks for. The inputs are not checked.

        Raises:
            GatewayError: the call would be refused.
        """

    async def run(self, call: Call) -> Result:
        """Compute the outputs of every input of ``call``.

        Raises:
            GatewayError: the call is refused or fails.
        """

    def start(self) -> None:
        """Start loading; :attr:`state` tells the progress."""

    async def first_attempt(self) -> None:
        """Wait until the first attempt to load has succeeded or failed."""

    async def stop(self) -> None:
        """Stop for good."""

    async def unready(self) -> str:
        """Ask whatever computes it whether it is alive; return what is wrong, empty if nothing is."""
