"""The whole model as one torch module: token ids in, finished vectors out.

A runtime runs or converts this module and nothing else, so that all runtimes compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.network import head, ragged
from embeddings_gateway.backends.hf.network.packed import Packed
from embeddings_gateway.backends.hf.network.pooling import pool
from embeddings_gateway.backends.hf.network.positions import number, offset_of
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
        self.offset = offset_of(transformer)

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

    def forward_packed(self, batch: Packed) -> Tensor:
        """Compute one vector per input, where the transformer's attention is the packed one.

        Returns:
            fp32 ``[inputs, dimensions]``.
        """
        output = self.transformer(
            input_ids=batch.ids[None],
            position_ids=number(batch, self.offset)[None],
            cu_seq_lens_q=batch.bounds,
            cu_seq_lens_k=batch.bounds,
            max_length_q=batch.longest,
            max_length_k=batch.longest,
        )
        return self._finished(ragged.pool(output.last_hidden_state[0], batch, self.modes))

    def _finished(self, pooled: Tensor) -> Tensor:
        vectors: Tensor = self.dense(pooled)
        return functional.normalize(vectors, p=2.0, dim=-1) if self.normalize else vectors


def build(layout: Layout, transformer: nn.Module) -> Network:
    """Return the network of a model whose pooling and normalising are settled.

    Raises:
        LoadError: the weights of a layer after pooling do not fit it.
    """
    dense = [head.load_dense(layout.root, module) for module in layout.dense]
    return Network(transformer, layout.pooling, dense, layout.normalize).eval()
