"""PURE: whether the results of a batch can be believed. Nothing that fails here reaches a client.

Each output has its own check of every entry. And a sample is computed twice: results in the wrong order, or of
an engine that has begun to miscalculate, look like any others. Only computing an input again, alone, tells.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Column, ModelInfo, Output
from embeddings_gateway.backends.invariance import NORM_TOLERANCE, same_column
from embeddings_gateway.workers.engine import InvalidResult

Mask = NDArray[np.bool_]


def usable(
    columns: Mapping[Output, Column], inputs: int, outputs: tuple[Output, ...], info: ModelInfo
) -> Mask:
    """Return which inputs of a batch have a usable result in every output, bool ``[inputs]``.

    Args:
        columns: what the engine answered.
        inputs: how many inputs it was given.
        outputs: what it was asked for.
        info: the facts that it stated of its model.

    Raises:
        InvalidResult: an output is missing, or its count, width or offsets are wrong.
    """
    mask = np.ones(inputs, np.bool_)
    for output in outputs:
        column = columns.get(output)
        if column is None:
            raise InvalidResult(f"there is no {output} output")
        _check_shape(column, output, inputs, info)
        good = _CHECKS[output](column, info)
        mask &= good if column.offsets is None else _all_of_each(good, column.offsets)
        if output == "multi_vector" and column.offsets is not None:
            mask &= np.diff(column.offsets) > 0  # an input has at least one token
    return mask


def same(first: Mapping[Output, Column], second: Mapping[Output, Column], info: ModelInfo) -> bool:
    """Return whether these can be results of the same input, computed in a batch and alone."""
    return all(same_column(output, column, second[output], info) for output, column in first.items())


def _check_shape(column: Column, output: Output, inputs: int, info: ModelInfo) -> None:
    offsets, indices = column.offsets, column.indices
    has_offsets = output in ("sparse", "multi_vector")
    if (offsets is not None) != has_offsets or (indices is not None) != (output == "sparse"):
        raise InvalidResult(f"{output} has not the parts that it should have")
    width = _width(output, info)
    if column.values.shape[1:] != (width,):
        raise InvalidResult(f"{output} has the shape {column.values.shape}, not a width of {width}")
    rows = len(column.values)
    entries = rows if offsets is None else offsets.size - 1
    if entries != inputs:
        raise InvalidResult(f"{output} has {entries} entries, not {inputs}")
    if offsets is not None and (offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any()):
        raise InvalidResult(f"{output} has offsets that do not fit its values")
    if indices is not None and len(indices) != rows:
        raise InvalidResult(f"{output} has {len(indices)} indices for {rows} values")


def _width(output: Output, info: ModelInfo) -> int:
    match output:
        case "dense":
            return info.dimensions
        case "multi_vector":
            return info.token_dimensions
        case "score":
            return info.labels
        case "sparse":
            return 1


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
    """Return which inputs have only good rows; an input may have no row."""
    bad_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(~good)])
    return np.asarray(bad_before[offsets[1:]] == bad_before[offsets[:-1]])


_CHECKS = {"dense": _vectors, "multi_vector": _token_vectors, "sparse": _weights, "score": _scores}
