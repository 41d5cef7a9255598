"""Parts of a model directory, loaded as the backend loads them."""

from __future__ import annotations

from pathlib import Path

import torch

from embeddings_gateway.backends.hf.files.layout import read_layout
from embeddings_gateway.backends.hf.files.weights import verify_weights
from embeddings_gateway.backends.hf.network.encoder import Encoder, load_encoder
from embeddings_gateway.backends.hf.runtimes.runtime import LoadedModel, RuntimeChoice
from embeddings_gateway.backends.hf.runtimes.torch_runtime import load_torch
from embeddings_gateway.backends.spec import HfSpec


def load_transformer(directory: Path, dtype: torch.dtype = torch.float32) -> Encoder:
    """Return the transformer of a directory."""
    layout = read_layout(directory)
    return load_encoder(layout, verify_weights(layout, None), dtype)


def load_in_torch(spec: HfSpec, choice: RuntimeChoice, *, packed: bool | None = None) -> LoadedModel:
    """Return a model in torch, packed or not."""
    layout = read_layout(Path(spec.path))
    return load_torch(spec, choice, layout, verify_weights(layout, None), packed=packed)
