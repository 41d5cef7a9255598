"""The layers after pooling: linear layers with their weights, in fp32."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files.modules import Dense
from embeddings_gateway.backends.hf.files.weights import SINGLE


class DenseLayer(nn.Module):
    """A linear layer, its activation, and where the model says so its input added again."""

    def __init__(self, shape: Dense) -> None:
        super().__init__()
        self.linear = nn.Linear(shape.in_features, shape.out_features, bias=shape.bias)
        self.activation: nn.Module = getattr(nn, shape.activation)()
        self.residual: nn.Module | None = None
        if shape.residual:
            same = shape.in_features == shape.out_features
            self.residual = (
                nn.Identity() if same else nn.Linear(shape.in_features, shape.out_features, bias=False)
            )

    def forward(self, vectors: Tensor) -> Tensor:
        """Map ``[inputs, in_features]`` to ``[inputs, out_features]``."""
        out: Tensor = self.activation(self.linear(vectors))
        return out if self.residual is None else out + self.residual(vectors)


def load_dense(root: Path, shape: Dense) -> DenseLayer:
    """Build the layer with the weights in its folder, as fp32.

    Raises:
        LoadError: the file holds other weights than the layer has.
    """
    layer = DenseLayer(shape)
    path = root / shape.folder / SINGLE
    try:
        weights = {name: tensor.to(torch.float32) for name, tensor in load_file(path).items()}
        layer.load_state_dict(weights, strict=True)
    except Exception as error:  # safetensors and torch raise kinds of their own
        raise LoadError(f"{path} does not fit the module's config.json: {error}") from error
    return layer
