"""What a conversion is calibrated with and judged by.

Texts of the kinds that people embed, in many languages; the inputs that are made of them; and how near to
torch the vectors of a conversion have to be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import Batch, LoadError, Vectors
from embeddings_gateway.backends.hf.runtimes.runtime import Dtype, Runtime
from embeddings_gateway.backends.hf.tokenizer import HfTokenizer
from embeddings_gateway.backends.invariance import cosine

CORPUS = Path(__file__).parent / "corpus"
"""Of text files in UTF-8, one text a line, shuffled over kinds and languages: neighbours get joined."""
CALIBRATION: tuple[str, ...] = tuple((CORPUS / "calibration.txt").read_text("utf-8").splitlines())
"""What int8 is calibrated with."""
PROBES: tuple[str, ...] = tuple((CORPUS / "probes.txt").read_text("utf-8").splitlines())
"""What a conversion is judged by; none of them is among those it is calibrated with."""
CALIBRATION_MAX = 512
"""The most texts of a file that are used. To calibrate a small model with so many takes a minute."""
JOINED_TEXTS = (1, 1, 1, 1, 2, 3, 5, 8)
"""How many texts are joined to one input, again and again, so that short and long inputs share a batch."""
PROBE_TOKENS_MAX = 512
CHARACTERS_PER_TOKEN = 8
"""No tokenizer makes fewer tokens of the probes, on average."""
COSINE_MIN: dict[Dtype, float] = {"fp32": 0.9999, "bf16": 0.999, "int8": 0.995}
"""What the lowest cosine over the probes has to be at least; for int8 the mean."""
SAME_RUNTIME: dict[Dtype, float] = {"fp32": 0.99999, "bf16": 0.9999, "int8": 0.999}
"""The lowest cosine between two vectors of one text by one runtime, whatever batch it is in."""
BATCH_INPUTS = 8
BATCH_TOKENS = 16384
"""The most tokens, with padding, that probes are computed in together."""
# Where a model begins to treat a text in another way: keys of its configuration.
LENGTH_KEYS = frozenset(
    ("attention_chunk_size", "local_attention", "original_max_position_embeddings", "sliding_window")
)
LONG_TOKENS_MAX = 8192
LONG_TOKENS_DEFAULT = 2048
"""The longest input that is tried of a model that names no limit."""
LONG_WORK_MAX = 3e13
"""Weights times tokens, for all long inputs together: a few minutes of torch on two cores."""


class Agreement(NamedTuple):
    """How near vectors are to those of torch in fp32: cosines, NaN if a vector is not finite or zero."""

    lowest: float
    mean: float

    def shortfall(self, dtype: Dtype) -> str:
        """Return what is missing for a dtype; empty if nothing is."""
        name, value = ("mean", self.mean) if dtype == "int8" else ("lowest", self.lowest)
        bound = COSINE_MIN[dtype]
        if value >= bound:  # never true of NaN
            return ""
        return f"the {name} cosine to fp32 on probe texts is {value:.5f}, and it has to be {bound} at least"


def calibration_texts(path: str | None) -> Sequence[str]:
    """Return the texts that int8 is calibrated with: ours, or some of a file's, one a line, taken evenly."""
    if path is None:
        return CALIBRATION
    try:
        lines = [line for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError:
        raise LoadError(f"calibration {path!r} is not text in UTF-8, one text a line") from None
    if not lines:
        raise LoadError(f"calibration {path!r} has no texts: write one a line, like those to come")
    return lines[:: -(-len(lines) // CALIBRATION_MAX)]


def calibration_sum(path: str | None) -> str:
    """Return the SHA-256 of the file that :func:`calibration_texts` reads."""
    try:
        return checksum.sha256(CORPUS / "calibration.txt" if path is None else Path(path))
    except OSError as error:
        raise _unreadable(str(path), error) from error


def probe_inputs(
    tokenizer: HfTokenizer, texts: Sequence[str], max_tokens: int, vocabulary_size: int
) -> Batch:
    """Return inputs of many lengths that the model can take: each text, some joined with those after it.

    What is longer than ``max_tokens`` is cut, and keeps its special tokens. Inputs with ids outside the
    vocabulary are left out.
    """
    joined = [" ".join(texts[i : i + JOINED_TEXTS[i % len(JOINED_TEXTS)]]) for i in range(len(texts))]
    inputs = tokenizer.tokenize(joined)
    suffix = len(tokenizer.suffix)
    cut = [
        ids if len(ids) <= max_tokens else np.r_[ids[: max_tokens - suffix], ids[len(ids) - suffix :]]
        for ids in inputs
    ]
    return Batch.of([ids for ids in cut if len(ids) and int(ids.max()) < vocabulary_size])


def long_lengths(config: Mapping[str, Any], limit: int | None, parameters: int) -> list[int]:
    """Return the lengths in tokens, ascending, at which a model may go wrong though it is right for short texts.

    Args:
        config: the model's ``config.json``: just above and at twice each length that it names, as that of a
            window of attention, tokens begin to see less, or have other positions.
        limit: the longest input that the model takes, if there is a limit. It is tried too.
        parameters: how many weights there are: the more, the fewer lengths.
    """
    named = sorted(_named_lengths(config))
    longest = min(limit or LONG_TOKENS_DEFAULT, LONG_TOKENS_MAX)
    wanted = dict.fromkeys([*(length + 1 for length in named), longest, *(2 * length for length in named)])
    lengths: list[int] = []
    for length in wanted:
        if length <= longest and (sum(lengths) + length) * parameters <= LONG_WORK_MAX:
            lengths.append(length)
    return sorted(lengths)


def _named_lengths(config: Mapping[str, Any]) -> set[int]:
    lengths = {value for key, value in config.items() if key in LENGTH_KEYS and isinstance(value, int)}
    parts = [value for value in config.values() if isinstance(value, dict)]
    return {length for length in lengths if length > 0}.union(*map(_named_lengths, parts))


def long_inputs(tokenizer: HfTokenizer, lengths: Sequence[int], vocabulary_size: int) -> Batch:
    """Return an input of each length, with one short input behind each, so that they come into the same batches."""
    texts = [" ".join(PROBES[i:] + PROBES[:i]) for i in range(len(lengths))]
    inputs = []
    for text, length in zip(texts, lengths, strict=True):
        repeated = " ".join([text] * (1 + length * CHARACTERS_PER_TOKEN // len(text)))
        inputs += [*probe_inputs(tokenizer, [repeated], length, vocabulary_size).split()]
        inputs += [*probe_inputs(tokenizer, [PROBES[0]], length, vocabulary_size).split()]
    return Batch.of(inputs)


def measure_agreement(runtime: Runtime, batch: Batch, expected: Vectors) -> Agreement:
    """Compare a runtime's vectors, alone and in batches of several lengths, with the expected ones."""
    batches = [batch.part(start, end) for start, end in _batches(batch.lengths)]
    alone = np.concatenate([runtime.run(single) for single in batch.singles()])
    together = np.concatenate([runtime.run(part) for part in batches])
    if alone.shape != expected.shape or together.shape != expected.shape:
        return Agreement(math.nan, math.nan)  # a graph that mixes up its inputs' lengths or numbers
    cosines = np.concatenate([cosine(alone, expected), cosine(together, expected)])
    return Agreement(float(cosines.min()), float(cosines.mean()))


def _batches(lengths: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Return where batches of neighbours begin and end."""
    start = 0
    for end in range(1, len(lengths) + 1):
        following = lengths[start : end + 1]
        full = len(following) > BATCH_INPUTS or len(following) * following.max() > BATCH_TOKENS
        if end == len(lengths) or full:
            yield start, end
            start = end


def _unreadable(path: str, error: OSError) -> LoadError:
    return LoadError(f"calibration {path!r} cannot be read: {error.strerror}")
