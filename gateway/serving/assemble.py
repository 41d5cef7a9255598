"""From the results of rows to the results of inputs: windows averaged, dense vectors cut to fewer dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Column, ModelInfo, Output, Vectors
from embeddings_gateway.batching.request import Request
from embeddings_gateway.errors import GatewayError, InputFailed
from embeddings_gateway.serving.yield_to_loop import MAX_WORK, LoopYielder


class Windows(NamedTuple):
    """Which rows of a request are windows of which input.

    Attributes:
        inputs: int64 ``[rows]``, the input of each row; ascending.
        weights: int64 ``[rows]``, the tokens of text in each.
    """

    inputs: NDArray[np.int64]
    weights: NDArray[np.int64]

    def averaged(self) -> NDArray[np.int64]:
        """Return the inputs that have several windows, ascending."""
        repeated = self.inputs[1:][self.inputs[1:] == self.inputs[:-1]]
        return np.asarray(
            repeated[np.diff(repeated, prepend=-1) > 0]
        )  # ``unique`` would import 30 ms of modules


class Assembled(NamedTuple):
    """The results of inputs.

    Attributes:
        columns: output -> its values, one entry for each input; entries of failed inputs have no meaning.
        errors: input -> why it has no result.
    """

    columns: dict[Output, Column]
    errors: Mapping[int, GatewayError]


async def assemble(
    request: Request, windows: Windows | None, dimensions: int | None, info: ModelInfo
) -> Assembled:
    """Return the results of the inputs of a finished request.

    Args:
        request: its rows have results or errors.
        windows: which rows are windows of which input; ``None`` where each row is an input.
        dimensions: columns of the dense vectors; ``None`` is all.
        info: the model's facts.
    """
    columns, errors = request.columns(), request.errors
    if "dense" in request.outputs:
        every_row_failed = "dense" not in columns
        shape = (len(request.batch), info.dimensions)
        vectors = np.full(shape, np.nan, np.float32) if every_row_failed else columns["dense"].values
        if windows is not None:
            vectors, errors = await _average_all(vectors, errors, windows, info)
        if dimensions not in (None, info.dimensions):
            vectors, errors = await _cut_all(vectors, errors, dimensions, info)
        columns["dense"] = Column(vectors)
    elif windows is not None:
        errors = _by_input(errors, windows)
    return Assembled(columns, errors)


async def _average_all(
    rows: Vectors, errors: Mapping[int, GatewayError], windows: Windows, info: ModelInfo
) -> tuple[Vectors, dict[int, GatewayError]]:
    """Return the vector of each input, the mean of its windows'; an input with a failed window fails."""
    input_errors = _by_input(errors, windows)
    starts = np.flatnonzero(np.diff(windows.inputs, prepend=-1))
    vectors = rows[starts]
    yielder = LoopYielder()
    for index in windows.averaged().tolist():
        begin = int(starts[index])
        end = int(starts[index + 1]) if index + 1 < len(starts) else len(rows)
        vectors[index] = mean(rows[begin:end], windows.weights[begin:end], info.normalized)
        if index not in input_errors and not np.isfinite(vectors[index]).all():
            input_errors[index] = InputFailed("The vectors of its windows cancel out.", f"input[{index}]")
        await yielder.yield_to_loop((end - begin) * info.dimensions)
    return vectors, input_errors


def _by_input(errors: Mapping[int, GatewayError], windows: Windows) -> dict[int, GatewayError]:
    """Return the error of each input: that of its first row that failed."""
    return {int(windows.inputs[row]): errors[row] for row in sorted(errors, reverse=True)}


async def _cut_all(
    vectors: Vectors, errors: Mapping[int, GatewayError], dimensions: int, info: ModelInfo
) -> tuple[Vectors, dict[int, GatewayError]]:
    """Return the vectors in fewer dimensions; an input whose vector is zero there fails."""
    cut_vectors = np.empty((len(vectors), dimensions), np.float32)
    all_errors = dict(errors)
    yielder = LoopYielder()
    size = math.ceil(MAX_WORK / info.dimensions)
    for begin in range(0, len(vectors), size):
        part = slice(begin, begin + size)
        cut_vectors[part] = cut(vectors[part], dimensions, info.normalized)
        for index in (begin + np.flatnonzero(~np.isfinite(cut_vectors[part]).all(axis=1))).tolist():
            error = InputFailed("The vector is zero in these dimensions.", f"input[{index}]")
            all_errors.setdefault(index, error)
        await yielder.yield_to_loop(len(vectors[part]) * info.dimensions)
    return cut_vectors, all_errors


def mean(windows: Vectors, weights: Sequence[int] | NDArray[np.int64], normalized: bool) -> Vectors:
    """Return the weighted mean of some vectors, as OpenAI's cookbook and LangChain compute it in the client.

    Args:
        windows: float32 ``[windows, dimensions]``.
        weights: of each window.
        normalized: whether the mean is brought to unit length.

    Returns:
        float32 ``[dimensions]``; NaN if it should have unit length, but the windows cancel out.
    """
    total: Vectors = np.average(windows, axis=0, weights=weights).astype(np.float32)
    if not normalized:
        return total
    with np.errstate(divide="ignore", invalid="ignore"):
        unit: Vectors = total / np.linalg.norm(total)
    return unit


def cut(vectors: Vectors, dimensions: int, normalized: bool) -> Vectors:
    """Return the first columns (Matryoshka embeddings), renormalised where the vectors have unit length.

    Args:
        vectors: float32 ``[inputs, full dimensions]``.
        dimensions: columns to keep.
        normalized: whether the model's vectors have unit length.

    Returns:
        float32 ``[inputs, dimensions]``; NaN in a row of which only zeros are left, if it had unit length.
    """
    columns = vectors[:, :dimensions]
    if normalized:
        with np.errstate(divide="ignore", invalid="ignore"):
            columns = columns / np.linalg.norm(columns, axis=1, keepdims=True)
    return np.ascontiguousarray(columns, dtype=np.float32)
