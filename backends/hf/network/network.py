"""The whole model as one torch module: token ids in, finished vectors out.

A runtime runs or converts this module and nothing else, so that all runtimes compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from backends.hf.network.pooling import pool
from backends.spec import Pooling


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

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute one vector per row.

        Args:
            input_ids: int64 ``[inputs, tokens]``, rows filled up with the padding id.
            attention_mask: int64 ``[inputs, tokens]``, 1 for a token and 0 for padding.

        Returns:
            fp32 ``[inputs, dimensions]``.
        """
        output = self.transformer(input_ids=input_ids, attention_mask=attention_mask)
        vectors: Tensor = self.dense(pool(output.last_hidden_state, attention_mask, self.modes))
        return functional.normalize(vectors, p=2.0, dim=-1) if self.normalize else vectors
