"""PURE: checks the results of a batch. No result that fails here reaches a client.

:func:`usable` checks every entry of every output. Results in the wrong order, or of an engine that has begun to
miscalculate, pass it. They are found by computing an input again, alone, and comparing both with :func:`same`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Column, ModelInfo, Output, misshapen
from embeddings_gateway.backends.invariance import NORM_TOLERANCE, same_column
from embeddings_gateway.workers.engine import InvalidResult

Mask = NDArray[np.bool_]


def usable(
    columns: Mapping[Output, Column], inputs: int, outputs: tuple[Output, ...], info: ModelInfo
) -> Mask:
    """Return which inputs of a batch have a usable result in every output, bool ``[inputs]``.

    Args:
        columns: the result of the engine.
        inputs: the number of inputs of the batch.
        outputs: those that were requested.
        info: the facts of the model.

    Raises:
        InvalidResult: an output is missing, or its count, width or offsets are wrong.
    """
    mask = np.ones(inputs, np.bool_)
    for output in outputs:
        column = columns.get(output)
        if column is None:
            raise InvalidResult(f"there is no {output} output")
        if problem := misshapen(output, column, inputs, info):
            raise InvalidResult(f"{output} has {problem}")
        good = _CHECKS[output](column, info)
        mask &= good if column.offsets is None else _all_of_each(good, column.offsets)
        if output == "multi_vector" and column.offsets is not None:
            mask &= np.diff(column.offsets) > 0  # an input has at least one token
    return mask


def same(first: Mapping[Output, Column], second: Mapping[Output, Column], info: ModelInfo) -> bool:
    """Return whether two results can belong to the same input, one computed in a batch and one alone."""
    return all(same_column(output, column, second[output], info) for output, column in first.items())


def _vectors(column: Column, info: ModelInfo) -> Mask:
    """Return which vectors are finite, not zero, and of unit length where the model states it."""
    if not info.normalized:
        return _token_vectors(column, info)
    squares = np.einsum("ij,ij->i", column.values, column.values)
    return np.asarray(np.abs(squares - 1) < 2 * NORM_TOLERANCE)  # false for NaN and infinity


def _token_vectors(column: Column, _: ModelInfo) -> Mask:
    """Return which vectors are finite and not zero."""
    squares = np.einsum("ij,ij->i", column.values, column.values)
    return np.asarray(np.isfinite(squares) & (squares > 0))


def _weights(column: Column, info: ModelInfo) -> Mask:
    """Return which values of sparse vectors are finite, positive, and of a token of the vocabulary."""
    indices, values = column.indices, column.values[:, 0]
    assert indices is not None  # noqa: S101 - checked with the shape
    return np.isfinite(values) & (values > 0) & (indices >= 0) & (indices < info.vocabulary_size)


def _scores(column: Column, _: ModelInfo) -> Mask:
    """Return which inputs have only finite scores."""
    return np.asarray(np.isfinite(column.values).all(axis=1))


def _all_of_each(good: Mask, offsets: NDArray[np.int64]) -> Mask:
    """Return which inputs have no bad row."""
    bad_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(~good)])
    return np.asarray(bad_before[offsets[1:]] == bad_before[offsets[:-1]])


_CHECKS = {"dense": _vectors, "multi_vector": _token_vectors, "sparse": _weights, "score": _scores}
