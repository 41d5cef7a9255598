"""Plain data of conversions: the order for one, its key, the record kept beside it, why there may be none."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from embeddings_gateway.backends.base import Batch, Vectors
from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.conversion.probes import calibration_sum
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.weights import Weights, vocabulary_sums
from embeddings_gateway.backends.hf.runtimes.runtime import Dtype, TransformerFacts
from embeddings_gateway.backends.spec import HfSpec

FORMAT = 3  # raised when conversions are made, judged or measured in another way
PACKAGES = ("openvino", "torch", "transformers")

GRAPH = "model.xml"
"""The converted network; its weights lie beside it, in ``model.bin``."""


class ConversionOrder(msgspec.Struct, frozen=True, kw_only=True):
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


class ReferenceVectors(msgspec.Struct, frozen=True):
    """Inputs, and the vectors that the conversion gave them when it was made.

    Attributes:
        inputs: token ids, special tokens included.
        vectors: float32 ``[inputs, dimensions]``, row-major, little-endian.
    """

    inputs: list[list[int]]
    vectors: bytes

    @classmethod
    def of(cls, batch: Batch, vectors: Vectors) -> ReferenceVectors:
        """Pack inputs and their vectors."""
        return cls([ids.tolist() for ids in batch.split()], vectors.astype("<f4").tobytes())

    def unpack(self) -> tuple[Batch, Vectors]:
        """Return the inputs and their vectors."""
        vectors = np.frombuffer(self.vectors, "<f4").reshape(len(self.inputs), -1)
        return Batch.of([np.array(ids, np.int32) for ids in self.inputs]), vectors


class Converted(msgspec.Struct, frozen=True, kw_only=True, tag="converted"):
    """A conversion that was checked.

    Attributes:
        facts: of the transformer.
        sums: file name -> SHA-256.
        threads: how many computed while it was judged; ``None`` is all cores.
        batch_tokens: the cost of a batch from which on it gets no faster with so many, in tokens.
        cosine_min, cosine_mean: agreement of the probes with torch in fp32, for whoever reads the record.
        reference_vectors: of a few probes, compared again each time it is loaded.
    """

    facts: TransformerFacts
    sums: dict[str, str]
    threads: int | None
    batch_tokens: int
    cosine_min: float
    cosine_mean: float
    reference_vectors: ReferenceVectors


class ConversionRefused(msgspec.Struct, frozen=True, tag="refused"):
    """No conversion of this model is good enough, and why."""

    reason: str


class Unservable(msgspec.Struct, frozen=True, tag="unservable"):
    """The model cannot be served by any runtime, and why."""

    reason: str


class ConversionFailed(msgspec.Struct, frozen=True, tag="failed"):
    """There is no conversion this time; another attempt may succeed."""

    reason: str


ConversionOutcome = Converted | ConversionRefused | Unservable | ConversionFailed


def conversion_key(spec: HfSpec, dtype: Dtype, layout: Layout, weights: Weights) -> str:
    """Return the name under which a conversion is kept, 32 hex digits; no library is imported for it.

    It changes with everything that the conversion depends on.

    Args:
        spec: how the model is configured.
        dtype: of the arithmetic.
        layout: as read from the directory.
        weights: verified.

    Raises:
        LoadError: the configured calibration texts cannot be read.
    """
    # Words before texts are no part of the network.
    network = msgspec.structs.replace(layout, root=Path(), prompts={}, default_prompt=None)
    packages = (*PACKAGES, "nncf") if dtype == "int8" else PACKAGES
    facts = {
        "format": FORMAT,
        "weights": weights.sums,
        "vocabulary": vocabulary_sums(layout),
        "layout": msgspec.to_builtins(network, enc_hook=str),
        "pooling": spec.pooling,
        "normalize": spec.normalize,
        "dtype": dtype,
        "calibration": calibration_sum(spec.calibration) if dtype == "int8" else None,
        # The judgement of a conversion, and its best batch, belong to the processor that they were found on.
        "processor": hardware.processor(),
        "packages": {name: version(name) for name in packages},
    }
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()[:32]
