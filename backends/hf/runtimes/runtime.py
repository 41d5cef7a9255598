"""What every runtime of a Network is: the seam between the model and the engine that computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from embeddings_gateway.backends.base import CostRule, TokenIds, Vectors


class Runtime(Protocol):
    """An engine that holds one Network. Used by one thread.

    Attributes:
        name: ``torch`` or ``openvino``.
        dtype: of weights and arithmetic in the transformer, as users write it.
        device: where it runs, with its number where there may be several.
        cost: what a batch costs: whether its inputs are padded to the longest or laid end to end.
    """

    name: str
    dtype: str
    device: str
    cost: CostRule

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        """Compute one vector per input: row ``i`` belongs to ``batch[i]``.

        Args:
            batch: at least one input, at least one token in each, every id one that the network knows.

        Raises:
            EmbedError: the engine failed. The message holds nothing of the input.
        """

    def close(self) -> None:
        """Give the memory back."""


def exhausted(error: Exception) -> bool:
    """Tell whether an engine ran out of memory: not every one has a kind of its own for that."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "alloc" in said or "out of memory" in said
