"""The name under which a conversion is kept: it changes with everything that the conversion depends on."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import msgspec

from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.conversion import texts
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.identity import vocabulary_sums
from embeddings_gateway.backends.hf.runtimes.choice import Dtype
from embeddings_gateway.backends.spec import HfSpec

FORMAT = 3  # raised when conversions are made, judged or measured in another way
PACKAGES = ("openvino", "torch", "transformers")


def of(spec: HfSpec, dtype: Dtype, layout: Layout, weights: Weights) -> str:
    """Return the key, 32 hex digits. No library is imported to make it.

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
        "calibration": texts.calibration_sum(spec.calibration) if dtype == "int8" else None,
        # The judgement of a conversion, and its best batch, belong to the processor that they were found on.
        "processor": hardware.processor(),
        "packages": {name: version(name) for name in packages},
    }
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()[:32]
