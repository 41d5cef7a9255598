"""The contract of every backend: its protocol, its input and output columns, the facts of its model, its errors.

It knows no model library, no process and no request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
"""The ids of one input, shape ``[tokens]``, special tokens included."""

Vectors = NDArray[np.float32]
"""One row per input, shape ``[inputs, dimensions]``, C-contiguous."""

Output = Literal["dense", "sparse", "multi_vector", "score"]
"""What a model can compute for an input. One forward pass may give several outputs."""

CostRule = Literal["padded", "packed"]
"""The cost of a batch in tokens: ``padded``: the longest input times the count; ``packed``: the sum of lengths."""


class BackendError(Exception):
    """Root of the errors of backends. Messages never contain a user's text."""


class LoadError(BackendError):
    """The model cannot be served. The message tells an operator why and what to do.

    Raised while a model is loaded, verified or configured: a missing file, a wrong checksum, an option that does
    not fit.
    """


class EmbedError(BackendError):
    """The engine failed on a batch or a text. The backend is still usable."""


class OutOfMemory(EmbedError):
    """There is no memory for a batch of this size. The backend is still usable."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Token ids of several inputs, as columns.

    Attributes:
        ids: int32 ``[tokens]``, the inputs end to end, special tokens included.
        lengths: int32 ``[inputs]``, the tokens of each input.
        segments: int32 ``[tokens]``, for pairs: 0 in the first text, 1 in the second; else ``None``.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    segments: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, inputs: Sequence[TokenIds]) -> Batch:
        """Return the inputs as one batch, without segments."""
        lengths = np.fromiter(map(len, inputs), np.int32, len(inputs))
        ids = np.concatenate(inputs, dtype=np.int32, casting="same_kind") if inputs else np.empty(0, np.int32)
        return cls(ids, lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """The number of tokens in all inputs."""
        return len(self.ids)

    def offsets(self) -> NDArray[np.int64]:
        """Return where each input begins, int64 ``[inputs + 1]``; the last value is the number of tokens."""
        return _offsets(self.lengths)

    def split(self) -> list[TokenIds]:
        """Return the ids of each input, as views."""
        ends = np.cumsum(self.lengths).tolist()
        return [self.ids[end - length : end] for end, length in zip(ends, self.lengths.tolist(), strict=True)]

    def part(self, begin: int, end: int) -> Batch:
        """Return the inputs from ``begin`` to ``end``, as views."""
        first = int(self.lengths[:begin].sum())
        tokens = slice(first, first + int(self.lengths[begin:end].sum()))
        return Batch(self.ids[tokens], self.lengths[begin:end], _part(self.segments, tokens))

    def singles(self) -> list[Batch]:
        """Return each input as a batch of its own."""
        return [self.select(np.array([i])) for i in range(len(self))]

    def select(self, rows: NDArray[np.int64]) -> Batch:
        """Return the inputs of these indices, in this order; an index may occur several times."""
        if len(rows) == len(self) == 1:
            return self
        tokens = _ranges(self.offsets(), rows)
        return Batch(self.ids[tokens], self.lengths[rows], _part(self.segments, tokens))

    @classmethod
    def concat(cls, batches: Sequence[Batch]) -> Batch:
        """Join at least one batch; where only some have segments, the tokens of the others get 0."""
        segments = None
        if any(batch.segments is not None for batch in batches):
            segments = np.concatenate(
                [np.zeros_like(batch.ids) if batch.segments is None else batch.segments for batch in batches]
            )
        return cls(
            np.concatenate([batch.ids for batch in batches]),
            np.concatenate([batch.lengths for batch in batches]),
            segments,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One output for a batch or a request.

    Attributes:
        values: float32 ``[rows, width]``. dense: a row per input, width = dimensions; score: a row per input,
            width = labels; multi_vector: a row per token; sparse: a row per vocabulary id, width = 1.
        offsets: int64 ``[inputs + 1]``, where each input's rows begin; ``None``: one row per input.
        indices: int32 ``[rows]``, sparse: the vocabulary id of each value; else ``None``.
    """

    values: NDArray[np.float32]
    offsets: NDArray[np.int64] | None = None
    indices: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def part(self, begin: int, end: int) -> Column:
        """Return the inputs from ``begin`` to ``end``, as views."""
        if self.offsets is None:
            return Column(self.values[begin:end])
        offsets = self.offsets[begin : end + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        return Column(self.values[rows], offsets - offsets[0], _part(self.indices, rows))

    def select(self, inputs: NDArray[np.int64]) -> Column:
        """Return the rows of these inputs, in this order; an input may occur several times."""
        if self.offsets is None:
            return Column(self.values[inputs])
        rows = _ranges(self.offsets, inputs)
        offsets = _offsets(np.diff(self.offsets)[inputs])
        return Column(self.values[rows], offsets, _part(self.indices, rows))

    @classmethod
    def concat(cls, columns: Sequence[Column]) -> Column:
        """Join at least one column, all of the same output and width."""
        values = np.concatenate([column.values for column in columns])
        lengths = [np.diff(column.offsets) for column in columns if column.offsets is not None]
        indices = [column.indices for column in columns if column.indices is not None]
        return cls(
            values,
            _offsets(np.concatenate(lengths)) if lengths else None,
            np.concatenate(indices) if indices else None,
        )


PART_CONTEXT = 128
"""How many characters before and after a part of a text a tokenizer sees with it."""


class Part(NamedTuple):
    """Which part of a longer text a text is.

    Attributes:
        begin: where ids are wanted from, in characters. 0: the whole text begins here. Otherwise what stands before
            is only there for its context.
        closes: whether the whole text ends where this part ends.
    """

    begin: int
    closes: bool


class TokenizedPart(NamedTuple):
    """The ids that a part certainly has in its whole text, without special tokens.

    Attributes:
        ids: int32 ``[tokens]``, of the characters from ``begin`` to ``end``.
        begin: the first place, not before the wanted one, where a token of the whole text certainly begins.
        end: the end of a part that closes the text; otherwise the last such place that has enough context behind
            it. If it is not after ``begin``, nothing is certain.
    """

    ids: TokenIds
    begin: int
    end: int


class TokenSpan(msgspec.Struct, frozen=True):
    """How much of a text one token can stand for. Only characters of ASCII that can be seen (``!`` to ``~``) count.

    A text that has n times as many has at least n tokens, whatever else is in it. 0: there is no limit.

    Attributes:
        words: runs of such characters between blanks.
        signs: such characters that are no letters and no digits.
        chars: such characters.
    """

    words: int = 0
    signs: int = 0
    chars: int = 0


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a loaded model. Made by its backend, sent once to the gateway.

    Attributes:
        dimensions: width of a full dense vector.
        supported_dimensions: widths a client may ask for, ascending, the full width last.
        default_dimensions: the width for clients that ask for none; ``None``: the full one.
        max_tokens: the longest input the model takes, in tokens, special tokens included.
        vocabulary_size: token ids are in ``range(vocabulary_size)``.
        prefix, suffix: the special token ids that stand before and after every text.
        prompts: name -> what goes before a text of that kind (``query``, ``document``, ...).
        default_prompt: name of the prompt for requests without an input type; ``None``: no prompt.
        pooling: ``mean``, ``cls``, ``last``, ...
        normalized: whether dense vectors have unit length.
        dtype: of weights and arithmetic, as users write it (``fp32``, ``bf16``, ``q8_0``).
        device: where it runs (``cpu``, ``cuda:0``).
        runtime: what runs it (``torch``, ``llama.cpp``, ``fake``).
        fingerprint: id of the embedding space, see :func:`embeddings_gateway.backends.checksum.fingerprint`.
        cost: how the cost of a batch in tokens is computed.
        max_batch_tokens: the largest cost of one batch, in tokens.
        max_batch_inputs: the largest number of inputs in one batch.
        created: when the weights were last changed, in Unix seconds.
        notes: what an operator should know about loading, such as why a slower runtime serves the model.
        outputs: those that it can compute.
        takes_pairs: whether an input may be a pair of texts.
        labels: width of a score column; 0 without that output.
        token_dimensions: width of a multi_vector column; 0 without that output.
        token_span: how much of a text one token can stand for at most.
        divides_texts: whether long texts can be tokenized in parts.
    """

    dimensions: int
    supported_dimensions: tuple[int, ...]
    max_tokens: int
    vocabulary_size: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    prompts: dict[str, str]
    default_prompt: str | None
    pooling: str
    normalized: bool
    dtype: str
    device: str
    runtime: str
    fingerprint: str
    cost: CostRule
    max_batch_tokens: int
    max_batch_inputs: int
    created: int
    default_dimensions: int | None = None
    notes: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ("dense",)
    takes_pairs: bool = False
    labels: int = 0
    token_dimensions: int = 0
    token_span: TokenSpan = TokenSpan()
    divides_texts: bool = False

    def dimensions_for(self, requested: int | None) -> int:
        """Return the width of the vectors of a client that asks for this one, or for none."""
        return requested or self.default_dimensions or self.dimensions


class Backend(Protocol):
    """One loaded model, living in a worker process.

    ``run`` and ``close`` are called by one thread only, the one that built the backend. ``tokenize`` and
    ``tokenize_part`` may be called by other threads at the same time.

    Attributes:
        info: the model's facts.
        files: those that outputs are computed from: weights, vocabularies, conversions.
    """

    info: ModelInfo
    files: Sequence[Path]

    def tokenize(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> Batch:
        """Turn each text into its ids, special tokens included, never cut. A text may have none.

        Args:
            texts: the texts.
            text_pairs: ``text_pairs[i]`` is the second text of the pair that ``texts[i]`` begins.

        Raises:
            EmbedError: the tokenizer cannot take a text, or the model takes no pairs.
        """

    def tokenize_part(self, text: str, part: Part) -> TokenizedPart:
        """Turn a part of a longer text into the ids that it has there. Called only if ``info.divides_texts``.

        Raises:
            EmbedError: the tokenizer cannot take the text.
        """

    def run(self, batch: Batch, outputs: Sequence[Output]) -> dict[Output, Column]:
        """Compute these outputs of each input.

        The caller guarantees one input at least, one token at least in each, none longer than
        ``info.max_tokens``, every id inside the vocabulary, a cost and count within
        ``info.max_batch_tokens`` and ``info.max_batch_inputs`` (or a batch of one input), and outputs that
        are among ``info.outputs``.

        Raises:
            EmbedError: the engine failed; nothing is known of any input.
        """

    def close(self) -> None:
        """Free the memory. Nothing is called afterwards."""


def refuse_pairs(text_pairs: Sequence[str] | None) -> None:
    """Raise EmbedError if there are pairs, for a backend that takes none."""
    if text_pairs is not None:
        raise EmbedError("this model takes no pairs of texts")


def misshapen(output: Output, column: Column, inputs: int, info: ModelInfo) -> str:
    """Return what is wrong with the shape of a column of so many inputs; empty if nothing is."""
    offsets, indices, rows = column.offsets, column.indices, len(column.values)
    has_offsets = output in ("sparse", "multi_vector")
    if (offsets is not None) != has_offsets or (indices is not None) != (output == "sparse"):
        return "not the parts that it should have"
    width = _width(output, info)
    if column.values.shape[1:] != (width,):
        return f"the shape {column.values.shape}, not a width of {width}"
    entries = rows if offsets is None else offsets.size - 1
    if entries != inputs:
        return f"{entries} entries, not {inputs}"
    if offsets is not None and (offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any()):
        return "offsets that do not ascend from 0 to the number of rows"
    if indices is not None and len(indices) != rows:
        return f"{len(indices)} indices for {rows} values"
    return ""


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


def _part(array: NDArray[np.int32] | None, rows: NDArray[np.int64] | slice) -> NDArray[np.int32] | None:
    return None if array is None else array[rows]


def _offsets(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where ranges of these lengths begin when they lie end to end, int64 ``[ranges + 1]``."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _ranges(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of the elements in these ranges, end to end."""
    starts = offsets[rows]
    lengths = offsets[np.asarray(rows) + 1] - starts
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
