"""The self-test: whether a loaded model keeps what is promised of its outputs.

It runs before a model serves, and again when the model is in doubt. Probe texts are computed alone and in a batch, and
the outputs are compared.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import (
    Backend,
    BackendError,
    Batch,
    Column,
    EmbedError,
    ModelInfo,
    OutOfMemory,
    Output,
    TokenIds,
)
from embeddings_gateway.backends.invariance import NORM_TOLERANCE, difference

PROBES = (
    "A probe.",
    "The quick brown fox jumps over the lazy dog.",
    "Ein etwas längerer Satz, der mit 漢字 und 🙂 andere Schriften enthält: nicht alle sind gleich lang.",
    "0123456789",
)
TOKENS_MAX = 2 * sum(len(probe.encode()) + 8 for probe in PROBES)
"""No more are computed by a self-test: a token is a byte at least, beside a few special ones."""


class SelfTest:
    """The probes of one backend. Called by the thread that computes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._info = backend.info

    def run(self) -> str:
        """Return what is wrong with the model, for an operator; empty if nothing is.

        Raises:
            OutOfMemory: which may be so for a while only.
        """
        info = self._info
        special = len(info.prefix) + len(info.suffix)
        if info.max_tokens <= special:
            return f"max_tokens is {info.max_tokens}, but {special} special tokens stand around every text"
        try:
            batch = self._probes()
            alone = [self._run(single) for single in batch.singles()]
            together = self._run(batch)
        except OutOfMemory:
            raise
        except BackendError as error:
            return f"the model fails on probe texts: {error}"
        for output in self._info.outputs:
            for i, columns in enumerate(alone):
                if problem := malformed(output, columns.get(output), batch.lengths[i : i + 1], info):
                    return problem
            if problem := malformed(output, together.get(output), batch.lengths, info):
                return problem
            joined = Column.concat([columns[output] for columns in alone])
            if apart := difference(output, joined, together[output], info):
                return f"probe texts alone and in a batch have {apart} ({output})"
        return ""

    def tokens_per_s(self) -> float:
        """Return how many tokens a second a small batch is computed with: less than a full one would be."""
        batch = self._probes()
        began = time.perf_counter()
        self._run(batch)
        return batch.tokens / max(time.perf_counter() - began, 1e-6)

    def _run(self, batch: Batch) -> dict[Output, Column]:
        return self._backend.run(batch, self._info.outputs)

    def _probes(self) -> Batch:
        """Return as many probes as fit into one batch, no longer than the model takes."""
        info, inputs = self._info, list[TokenIds]()
        for ids in self._backend.tokenize(PROBES).split():
            if not len(ids) or ids.max() >= info.vocabulary_size:  # some vocabularies know few characters
                continue
            longer = [*inputs, _fitted(ids, info)]
            cost = max(map(len, longer)) * len(longer)
            if inputs and (cost > info.max_batch_tokens or len(longer) > info.max_batch_inputs):
                break
            inputs = longer
        if not inputs:
            raise EmbedError("its vocabulary has no token for any of them")
        return Batch.of(inputs)


def malformed(output: Output, column: Column | None, lengths: NDArray[np.int32], info: ModelInfo) -> str:
    """Say what is wrong with the column of probe texts of these lengths, by itself; empty if nothing is."""
    if column is None:
        problem = "nothing"
    elif not (problem := _misshapen(output, column, lengths, info)):
        problem = _wrong_values(output, column.values, info)
    return f"the model gives probe texts {problem} ({output})" if problem else ""


def _wrong_values(output: Output, values: NDArray[np.float32], info: ModelInfo) -> str:
    if not np.isfinite(values).all():
        return "values that are not finite"
    if output in ("sparse", "score"):
        return ""
    norms = np.linalg.norm(values, axis=1)
    if not (norms > 0).all():
        return "vectors that are zero"
    if output == "dense" and info.normalized and (np.abs(norms - 1) > NORM_TOLERANCE).any():
        return "vectors without the unit length that it states"
    return ""


def _misshapen(output: Output, column: Column, lengths: NDArray[np.int32], info: ModelInfo) -> str:
    """Say what is wrong with the shape and the indices of a column; empty if nothing is."""
    one_row_each = output in ("dense", "score")
    widths = {"dense": info.dimensions, "score": info.labels, "multi_vector": info.token_dimensions}
    rows = len(lengths) if one_row_each else len(column.values)
    if column.values.shape != (rows, widths.get(output, 1)):
        return f"{column.values.shape} values, not {(rows, widths.get(output, 1))}"
    if one_row_each:
        return "several rows for each" if column.offsets is not None else ""
    if column.offsets is None or len(column) != len(lengths):
        return f"rows for {len(column)} inputs, not {len(lengths)}"
    counts = np.diff(column.offsets)
    if column.offsets[0] != 0 or column.offsets[-1] != rows or (counts < 0).any():
        return "offsets that do not ascend from 0 to the number of rows"
    if output == "sparse":
        return _wrong_indices(column, counts, info.vocabulary_size)
    return "" if ((counts >= 1) & (counts <= lengths)).all() else "vectors that are not one for each token"


def _wrong_indices(column: Column, counts: NDArray[np.int64], size: int) -> str:
    indices = column.indices
    if indices is None or len(indices) != len(column.values):
        return "weights without an index for each"
    if indices.min(initial=0) < 0 or indices.max(initial=0) >= size:
        return f"an index outside the vocabulary of {size}"
    keys = np.repeat(np.arange(len(counts)), counts) * size + indices
    return "" if len(np.unique(keys)) == len(keys) else "one index twice"


def _fitted(ids: TokenIds, info: ModelInfo) -> TokenIds:
    """Return ids no longer than the model takes, with the special tokens at their end."""
    if len(ids) <= info.max_tokens:
        return ids
    suffix = np.array(info.suffix, dtype=np.int32)
    return np.concatenate([ids[: info.max_tokens - len(suffix)], suffix])
