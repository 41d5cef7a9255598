"""What is kept beside a converted network, and what can be said instead of one. Plain data."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from embeddings_gateway.backends.base import TokenIds, Vectors
from embeddings_gateway.backends.hf.facts import Facts
from embeddings_gateway.backends.hf.runtimes.choice import Dtype
from embeddings_gateway.backends.spec import HfSpec

GRAPH = "model.xml"
"""The converted network; its weights lie beside it, in ``model.bin``."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be converted.

    Attributes:
        spec: the model; its path is a directory on this machine.
        dtype: of the arithmetic that the conversion is for.
        key: the name under which it is kept; it changes with everything that the conversion depends on.
        folder: an empty directory for the files.
    """

    spec: HfSpec
    dtype: Dtype
    key: str
    folder: str


class Golden(msgspec.Struct, frozen=True):
    """Inputs, and the vectors that the conversion gave them when it was made.

    Attributes:
        inputs: token ids, special tokens included.
        vectors: float32 ``[inputs, dimensions]``, row-major, little-endian.
    """

    inputs: list[list[int]]
    vectors: bytes

    @classmethod
    def of(cls, inputs: Sequence[TokenIds], vectors: Vectors) -> Golden:
        """Keep inputs and their vectors."""
        return cls([ids.tolist() for ids in inputs], vectors.astype("<f4").tobytes())

    def unpack(self) -> tuple[list[TokenIds], Vectors]:
        """Return the inputs and their vectors."""
        vectors = np.frombuffer(self.vectors, "<f4").reshape(len(self.inputs), -1)
        return [np.array(ids, np.int32) for ids in self.inputs], vectors


class Converted(msgspec.Struct, frozen=True, kw_only=True, tag="converted"):
    """A conversion that was checked.

    Attributes:
        facts: of the transformer.
        sums: file name -> SHA-256.
        threads: how many computed while it was judged; ``None`` is all cores.
        batch_tokens: the cost of a batch from which on it gets no faster with so many, in tokens.
        cosine_min, cosine_mean: agreement of the probes with torch in fp32, for whoever reads the record.
        golden: a few of the probes, to be looked at again each time it is loaded.
    """

    facts: Facts
    sums: dict[str, str]
    threads: int | None
    batch_tokens: int
    cosine_min: float
    cosine_mean: float
    golden: Golden


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """No conversion of this model is good enough, and why."""

    reason: str


class Unservable(msgspec.Struct, frozen=True, tag="unservable"):
    """The model cannot be served by any runtime, and why."""

    reason: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """There is no conversion this time; another attempt may succeed."""

    reason: str


Outcome = Converted | Refused | Unservable | Failed
