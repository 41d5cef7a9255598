"""The whole model as one torch module: token ids in, finished vectors out.

A runtime runs or converts this module and nothing else, so that all runtimes compute the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files.layout import Dense, Layout
from embeddings_gateway.backends.hf.files.tokenizer_settings import Segments
from embeddings_gateway.backends.hf.files.weights import SINGLE
from embeddings_gateway.backends.hf.network.encoder import position_offset
from embeddings_gateway.backends.hf.network.packed_attention import UnpackableError
from embeddings_gateway.backends.hf.network.packed_batch import PackedTensors, packed_pooling, position_ids
from embeddings_gateway.backends.hf.network.rotary import own_positions, split_by_length
from embeddings_gateway.backends.spec import Pooling


class Network(nn.Module):
    """Transformer, pooling, linear layers and normalising. Everything after the transformer is fp32."""

    def __init__(
        self,
        transformer: nn.Module,
        modes: Sequence[Pooling],
        dense: Sequence[nn.Module],
        normalize: bool,
        segments: Segments | None = None,
    ) -> None:
        super().__init__()
        self.segments = segments
        self.transformer = transformer
        self.modes = tuple(modes)
        self.dense = nn.Sequential(*dense)
        self.normalize = normalize
        self.offset = position_offset(transformer)
        self.by_length = split_by_length(transformer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute one vector per row.

        Args:
            input_ids: int64 ``[inputs, tokens]``, rows filled up with the padding id.
            attention_mask: int64 ``[inputs, tokens]``, 1 for a token and 0 for padding.

        Returns:
            fp32 ``[inputs, dimensions]``.
        """
        extra = {}
        if self.segments is not None:
            extra["token_type_ids"] = token_types(attention_mask, self.segments)
        if self.by_length:
            extra["position_ids"] = own_positions(attention_mask)
        output = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **extra)
        return self._finished(pool(output.last_hidden_state, attention_mask, self.modes))

    def forward_packed(self, batch: PackedTensors) -> Tensor:
        """Compute one vector per input, fp32 ``[inputs, dimensions]``, with the packed attention."""
        if self.segments is not None:
            raise UnpackableError("its texts have segments")
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


def token_types(mask: Tensor, segments: Segments) -> Tensor:
    """Return the segment of each token, int64 ``[inputs, tokens]``; ``mask`` is as in :func:`pool`."""
    from_start = mask.cumsum(dim=1) - 1
    from_end = mask.sum(dim=1, keepdim=True) - 1 - from_start
    types = torch.full_like(mask, segments.text)
    for place, segment in enumerate(segments.prefix):
        types = types.masked_fill(from_start == place, segment)
    for place, segment in enumerate(reversed(segments.suffix)):
        types = types.masked_fill(from_end == place, segment)
    return types * mask


def pool(tokens: Tensor, mask: Tensor, modes: Sequence[Pooling]) -> Tensor:
    """Pool with each mode and concatenate the results, by sentence-transformers' formulas.

    Every mode goes by the mask alone, so padding on the left, on the right or none gives the same vector.

    Args:
        tokens: ``[inputs, tokens, width]``, any float dtype; where the mask is 0, anything.
        mask: ``[inputs, tokens]``, 1 for a token and 0 for padding; at least one 1 in each row, without gaps.
        modes: at least one.

    Returns:
        fp32 ``[inputs, width * len(modes)]``.
    """
    tokens = tokens.float()
    weights = mask.to(tokens.dtype)
    return torch.cat([MODES[mode](tokens, weights) for mode in modes], dim=-1)


def _sum(tokens: Tensor, weights: Tensor) -> Tensor:
    weights = weights.unsqueeze(-1)
    # Filled, not only multiplied by 0: attention over nothing makes NaN, which would outlive the product.
    return (tokens.masked_fill(weights == 0, 0.0) * weights).sum(dim=1)


def _weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average with weights 1, 2, 3, ... from the first token on (SGPT, arXiv:2202.08904)."""
    weights = mask.cumsum(dim=1) * mask
    return _sum(tokens, weights) / weights.sum(dim=1, keepdim=True)


def _token(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index.view(-1, 1, 1).expand(-1, 1, tokens.shape[2])).squeeze(1)


MODES: Mapping[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda tokens, mask: _token(tokens, mask.argmax(dim=1)),
    "last": lambda tokens, mask: _token(tokens, mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)),
    "max": lambda tokens, mask: tokens.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1),
    "mean": lambda tokens, mask: _sum(tokens, mask) / mask.sum(dim=1, keepdim=True),
    "mean_sqrt_len": lambda tokens, mask: _sum(tokens, mask) / mask.sum(dim=1, keepdim=True).sqrt(),
    "weighted_mean": _weighted_mean,
}


def build_network(layout: Layout, transformer: nn.Module, segments: Segments | None) -> Network:
    """Return the network of a model whose pooling and normalising are resolved.

    ``segments``: of every text, if the transformer knows segments and they are not all 0.
    """
    dense = [load_dense(layout.root, module) for module in layout.dense]
    if "token_type_ids" not in inspect.signature(transformer.forward).parameters:
        segments = None
    if segments is not None:
        known = getattr(transformer.config, "type_vocab_size", None)
        highest = max((*segments.prefix, segments.text, *segments.suffix))
        if isinstance(known, int) and highest >= known:
            raise LoadError(f"{layout.folder}: the tokenizer has segment {highest}, the model only {known}")
    return Network(transformer, layout.pooling, dense, layout.normalize, segments).eval()


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
    """Build the layer with the weights in its folder, as fp32; a ``LoadError`` if they do not fit."""
    layer = DenseLayer(shape)
    path = root / shape.folder / SINGLE
    try:
        weights = {name: tensor.to(torch.float32) for name, tensor in load_file(path).items()}
        layer.load_state_dict(weights, strict=True)
    except Exception as error:  # safetensors and torch raise kinds of their own
        raise LoadError(f"{path} does not fit the module's config.json: {error}") from error
    return layer
