"""The self-test: computes probe texts alone and in a batch, checks the outputs, and compares them.

It runs before a model serves, and again when its results are in doubt. Then they must also be those of the first
time: an engine whose weights have changed under it agrees with itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

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
    misshapen,
)
from embeddings_gateway.backends.invariance import AUDIT_SLACK, NORM_TOLERANCE, difference

# Next to nothing, and more than a tile of 64 tokens: their vectors are the first to depend on the batch.
PROBES = (
    "A probe.",
    "The quick brown fox jumps over the lazy dog.",
    "Ein etwas längerer Satz, der mit 漢字 und 🙂 andere Schriften enthält: nicht alle sind gleich lang.",
    "0123456789",
    "...",
    "!!!",
    "a",
    "好",
    "A text of some length, such as people search in: it has several sentences. They go on for a while, about rivers "
    "and old stone bridges, about prices, music and maps. Engineers measure every morning how long the water takes "
    "to reach the sea, and write down what they find; others read it in books, years later, and wonder.",
)
TOKENS_MAX = 2 * sum(len(probe.encode()) + 8 for probe in PROBES)
"""The most tokens that a self-test computes: a token has at least a byte; 8 is for special tokens."""


class SelfTest:
    """The probes of one backend. Called by the thread that computes.

    Attributes:
        reference: the outputs of the probes alone, of the first run that found nothing wrong; empty before.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._info = backend.info
        self.reference: dict[Output, Column] = {}

    def run(self) -> str:
        """Return what is wrong with the model, for an operator; empty if nothing is.

        Raises:
            OutOfMemory: another attempt may succeed.
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
        if problem := self._compare(batch, alone, together):
            return problem
        joined = {output: Column.concat([columns[output] for columns in alone]) for output in info.outputs}
        self.reference = self.reference or joined
        return changed_results(joined, self.reference, info)

    def run_first(self) -> str:
        """Compute one probe alone; return what is wrong with the model, empty if nothing is.

        Raises:
            OutOfMemory: another attempt may succeed.
        """
        try:
            first = self._probes().part(0, 1)
            columns = self._run(first)
        except OutOfMemory:
            raise
        except BackendError as error:
            return f"the model fails on a probe text: {error}"
        for output in self._info.outputs:
            if problem := malformed(output, columns.get(output), first.lengths, self._info):
                return problem
        return changed_results(columns, self.reference, self._info)

    def _compare(
        self, batch: Batch, alone: list[dict[Output, Column]], together: dict[Output, Column]
    ) -> str:
        """Return what is wrong with the probes' outputs, alone and in a batch; empty if nothing is."""
        info = self._info
        for output in info.outputs:
            for i, columns in enumerate(alone):
                if problem := malformed(output, columns.get(output), batch.lengths[i : i + 1], info):
                    return problem
            if problem := malformed(output, together.get(output), batch.lengths, info):
                return problem
            joined = Column.concat([columns[output] for columns in alone])
            if problem := difference(output, joined, together[output], info):
                return f"probe texts alone and in a batch have {problem} ({output})"
        return ""

    def tokens_per_s(self) -> float:
        """Measure the speed of one small batch. Full batches are faster."""
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
            longer = [*inputs, _truncated(ids, info)]
            cost = sum(map(len, longer)) if info.cost == "packed" else max(map(len, longer)) * len(longer)
            if inputs and (cost > info.max_batch_tokens or len(longer) > info.max_batch_inputs):
                break
            inputs = longer
        if not inputs:
            raise EmbedError("its vocabulary has no token for any of them")
        return Batch.of(inputs)


def changed_results(
    columns: Mapping[Output, Column], reference: Mapping[Output, Column], info: ModelInfo
) -> str:
    """Return how outputs of the first probes differ from a model's outputs of before; empty if they do not.

    The number of probes depends on the size of a batch, which need not be the same in every worker.
    """
    for output in info.outputs:
        probes = min(len(columns[output]), len(reference[output]))
        first, second = columns[output].part(0, probes), reference[output].part(0, probes)
        if problem := difference(output, first, second, info, slack=AUDIT_SLACK):
            return f"probe texts do not give what they gave before: {problem} ({output})"
    return ""


def malformed(output: Output, column: Column | None, lengths: NDArray[np.int32], info: ModelInfo) -> str:
    """Return what is wrong with the column of probe texts of these lengths; empty if nothing is."""
    if column is None:
        problem = "no values"
    else:
        problem = misshapen(output, column, len(lengths), info) or _wrong_values(output, column.values, info)
        if not problem and column.offsets is not None:
            problem = _wrong_rows(column, np.diff(column.offsets), lengths, info)
    return f"on probe texts the output {output} has {problem}" if problem else ""


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


def _wrong_rows(
    column: Column, counts: NDArray[np.int64], lengths: NDArray[np.int32], info: ModelInfo
) -> str:
    """Return what is wrong with the number of vectors of each input, or with its vocabulary ids."""
    indices, size = column.indices, info.vocabulary_size
    if indices is None:
        return (
            "" if ((counts >= 1) & (counts <= lengths)).all() else "vectors that are not one for each token"
        )
    if indices.min(initial=0) < 0 or indices.max(initial=0) >= size:
        return f"an index outside the vocabulary of {size}"
    keys = np.repeat(np.arange(len(counts)), counts) * size + indices
    return "" if len(np.unique(keys)) == len(keys) else "one index twice"


def _truncated(ids: TokenIds, info: ModelInfo) -> TokenIds:
    """Return ids no longer than the model takes, with the special tokens at their end."""
    if len(ids) <= info.max_tokens:
        return ids
    suffix = np.array(info.suffix, dtype=np.int32)
    return np.concatenate([ids[: info.max_tokens - len(suffix)], suffix])
