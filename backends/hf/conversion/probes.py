"""What a conversion is calibrated with and judged by.

Texts of the kinds that people embed, in many languages; the inputs that are made of them; and how near to
torch the vectors of a conversion have to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
COSINE_MIN: dict[Dtype, float] = {"fp32": 0.9999, "bf16": 0.999, "int8": 0.995}
"""What the lowest cosine over the probes has to be at least; for int8 the mean."""
SAME_RUNTIME: dict[Dtype, float] = {"fp32": 0.99999, "bf16": 0.9999, "int8": 0.999}
"""The lowest cosine between two vectors of one text by one runtime, whatever batch it is in."""
BATCH_INPUTS = 8


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


def measure_agreement(runtime: Runtime, batch: Batch, expected: Vectors) -> Agreement:
    """Compare a runtime's vectors, alone and in batches of several lengths, with the expected ones."""
    batches = [batch.part(start, start + BATCH_INPUTS) for start in range(0, len(batch), BATCH_INPUTS)]
    alone = np.concatenate([runtime.run(single) for single in batch.singles()])
    together = np.concatenate([runtime.run(part) for part in batches])
    cosines = np.concatenate([cosine(alone, expected), cosine(together, expected)])
    return Agreement(float(cosines.min()), float(cosines.mean()))


def _unreadable(path: str, error: OSError) -> LoadError:
    return LoadError(f"calibration {path!r} cannot be read: {error.strerror}")
