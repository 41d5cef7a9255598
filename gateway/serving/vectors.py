"""The vectors of a request on their way out: made, and cut, in short turns of the event loop."""

from __future__ import annotations

import math

import numpy as np

from backends.base import ModelInfo, Vectors
from gateway.batching.job import Request
from gateway.errors import InputFailed
from gateway.serving.ask import Ask
from gateway.serving.dimensions import cut
from gateway.serving.pace import WORK_MAX, Pace


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


async def cut_all(request: Request, ask: Ask, info: ModelInfo) -> Vectors:
    """Return the vectors of a finished request in the dimensions asked for; what has nothing in these fails.

    Raises:
        InputFailed: one has nothing in these, and the request is not to be answered in part.
    """
    if ask.dimensions in (None, info.dimensions):
        return request.vectors
    vectors = np.empty((len(request.vectors), ask.dimensions), np.float32)
    pace = Pace()
    size = math.ceil(WORK_MAX / info.dimensions)
    for begin in range(0, len(vectors), size):
        part = slice(begin, begin + size)
        vectors[part] = cut(request.vectors[part], ask.dimensions, info.normalized)
        for index in np.flatnonzero(~np.isfinite(vectors[part]).all(axis=1)).tolist():
            _refuse(begin + index, request, ask.partial)
        await pace.after(len(vectors[part]) * info.dimensions)
    return vectors


def _refuse(index: int, request: Request, partial: bool) -> None:
    """Fail an input whose vector has nothing in the dimensions asked for, unless it has failed before."""
    if index not in request.errors:
        error = InputFailed("The vector is zero in these dimensions.", f"input[{index}]")
        if not partial:
            raise error
        request.errors[index] = error
