"""What is asked of a model, and what it answers: plain data, the same for HTTP and for the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from typing_extensions import TypeIs

from embeddings_gateway.backends.base import Vectors
from embeddings_gateway.config import InputType, Truncate
from embeddings_gateway.errors import GatewayError, InvalidRequest, TooManyTokens

Texts = list[str]
IdLists = list[list[int]]


def are_texts(inputs: Texts | IdLists) -> TypeIs[Texts]:
    """Tell texts from lists of token ids."""
    return isinstance(inputs[0], str)


class InputLimits(NamedTuple):
    """Bounds on one input, whatever the model.

    Attributes:
        chars_max: characters of a text, before it is tokenized.
        ids_max: token ids of an input that is given as such.
    """

    chars_max: int
    ids_max: int


def fault_of(one: str | Sequence[int], limits: InputLimits) -> InvalidRequest | None:
    """Return what is wrong with an input before anything is done with it."""
    if not one:
        return InvalidRequest("An input must not be empty.")
    if isinstance(one, str):
        if len(one) > limits.chars_max:
            return InvalidRequest(f"An input has at most {limits.chars_max} characters, not {len(one)}.")
    elif len(one) > limits.ids_max:
        return TooManyTokens(f"An array has at most {limits.ids_max} token ids.")
    return None


class Ask(NamedTuple):
    """What is asked of a model.

    Attributes:
        inputs: texts, or lists of token ids.
        dimensions: columns of the vectors; ``None`` is all.
        truncate: what happens to an input that is too long; ``None`` is the model's configuration.
        role: what the texts are, for models that want other words before each; ``None`` is its default.
        partial: whether an input may fail without failing the others.
        refused: input -> what is wrong with it, of those that nothing is done with; none unless ``partial``.
        space: the fingerprint that the client expects.
        seconds_max: how long it may take.
    """

    inputs: Texts | IdLists
    dimensions: int | None = None
    truncate: Truncate | None = None
    role: InputType | None = None
    partial: bool = False
    refused: Mapping[int, GatewayError] = {}
    space: str | None = None
    seconds_max: float = math.inf


class Answer(NamedTuple):
    """What a model answers.

    Attributes:
        vectors: float32 ``[inputs, dimensions]``; rows of failed inputs mean nothing.
        errors: input -> why it has no vector; empty unless partial results were asked for.
        tokens: what the model saw, special tokens included.
        truncated: inputs that were cut.
        averaged: inputs whose vectors are averages of several windows.
        prompt: the name of the prompt that went before the texts.
        space: fingerprint of the embedding space.
        seconds: phase -> how long it took (``tokenize``, ``queue``, ``infer``).
    """

    vectors: Vectors
    errors: Mapping[int, GatewayError]
    tokens: int
    truncated: Sequence[int]
    averaged: Sequence[int]
    prompt: str | None
    space: str
    seconds: Mapping[str, float]
