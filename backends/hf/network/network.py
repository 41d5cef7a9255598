"""The whole model as one torch module: token ids in, finished vectors out.

A runtime runs or converts this module and nothing else, so that all runtimes compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files.layout import Dense, Layout
from embeddings_gateway.backends.hf.files.weights import SINGLE
from embeddings_gateway.backends.hf.network.encoder import position_offset
from embeddings_gateway.backends.hf.network.packed_batch import PackedTensors, packed_pooling, position_ids
from embeddings_gateway.backends.hf.network.pooling import pool
from embeddings_gateway.backends.spec import Pooling


class Network(nn.Module):
    """Transformer, pooling, linear layers and normalising. Everything after the transformer is fp32."""

    def __init__(
        self, transformer: nn.Module, modes: Sequence[Pooling], dense: Sequence[nn.Module], normalize: bool
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.modes = tuple(modes)
        self.dense = nn.Sequential(*dense)
        self.normalize = normalize
        self.offset = position_offset(transformer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute one vector per row.

        Args:
            input_ids: int64 ``[inputs, tokens]``, rows filled up with the padding id.
            attention_mask: int64 ``[inputs, tokens]``, 1 for a token and 0 for padding.

        Returns:
            fp32 ``[inputs, dimensions]``.
        """
        output = self.transformer(input_ids=input_ids, attention_mask=attention_mask)
        return self._finished(pool(output.last_hidden_state, attention_mask, self.modes))

    def forward_packed(self, batch: PackedTensors) -> Tensor:
        """Compute one vector per input, where the transformer's attention is the packed one.

        Returns:
            fp32 ``[inputs, dimensions]``.
        """
        output = self.transformer(
            input_ids=batch.ids[None],
            position_ids=position_ids(batch, self.offset)[None],
            cu_seq_lens_q=batch.cu_seqlens,
            cu_seq_lens_k=batch.cu_seqlens,
            max_length_q=batch.max_seqlen,
            max_length_k=batch.max_seqlen,
        )
        return self._finished(packed_pooling(output.last_hidden_state[0], batch, self.modes))

    def _finished(self, pooled: Tensor) -> Tensor:
        vectors: Tensor = self.dense(pooled)
        return functional.normalize(vectors, p=2.0, dim=-1) if self.normalize else vectors


def build_network(layout: Layout, transformer: nn.Module) -> Network:
    """Return the network of a model whose pooling and normalising are resolved.

    Raises:
        LoadError: the weights of a layer after pooling do not fit it.
    """
    dense = [load_dense(layout.root, module) for module in layout.dense]
    return Network(transformer, layout.pooling, dense, layout.normalize).eval()


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
