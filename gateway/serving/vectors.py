"""The vectors of a request on their way out: made, averaged and cut, in short turns of the event loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from embeddings_gateway.backends.base import ModelInfo, Vectors
from embeddings_gateway.errors import GatewayError, InputFailed
from embeddings_gateway.serving.ask import Ask
from embeddings_gateway.serving.averages import Averages, mean
from embeddings_gateway.serving.dimensions import cut
from embeddings_gateway.serving.pace import WORK_MAX, Pace


class Made(NamedTuple):
    """What was made of inputs.

    Attributes:
        vectors: float32 ``[inputs, dimensions]``; rows of failed inputs mean nothing.
        errors: input -> why it has no vector.
    """

    vectors: Vectors
    errors: Mapping[int, GatewayError]


async def blank_all(inputs: int, dimensions: int) -> Vectors:
    """Return rows that are no vectors yet: NaN, which nothing takes for one. Made in short turns."""
    pace = Pace()
    vectors = np.empty((inputs, dimensions), np.float32)
    size = math.ceil(WORK_MAX / dimensions)
    for begin in range(0, inputs, size):
        part = vectors[begin : begin + size]
        part[:] = np.nan
        await pace.after(part.size)
    return vectors


async def average_all(made: Made, averages: Averages, info: ModelInfo) -> Made:
    """Return one vector for each input from those of its windows; none where a window failed."""
    errors = {averages.places[row]: made.errors[row] for row in sorted(made.errors, reverse=True)}
    rows = list(averages.slices())
    vectors = np.empty((len(rows), info.dimensions), np.float32)
    pace = Pace()
    for index, windows in enumerate(rows):
        one = made.vectors[windows]
        vectors[index] = one if len(one) == 1 else mean(one, averages.weights[windows], info.normalized)
        if index not in errors and not np.isfinite(vectors[index]).all():
            errors[index] = InputFailed("The vectors of its windows cancel out.", f"input[{index}]")
        await pace.after(one.size)
    return Made(vectors, errors)


async def cut_all(made: Made, ask: Ask, info: ModelInfo) -> Made:
    """Return the vectors in the dimensions asked for; what has nothing in these fails."""
    if ask.dimensions in (None, info.dimensions):
        return made
    vectors = np.empty((len(made.vectors), ask.dimensions), np.float32)
    errors = dict(made.errors)
    pace = Pace()
    size = math.ceil(WORK_MAX / info.dimensions)
    for begin in range(0, len(vectors), size):
        part = slice(begin, begin + size)
        vectors[part] = cut(made.vectors[part], ask.dimensions, info.normalized)
        for index in (begin + np.flatnonzero(~np.isfinite(vectors[part]).all(axis=1))).tolist():
            errors.setdefault(
                index, InputFailed("The vector is zero in these dimensions.", f"input[{index}]")
            )
        await pace.after(len(vectors[part]) * info.dimensions)
    return Made(vectors, errors)
