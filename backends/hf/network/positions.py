"""How a transformer numbers positions: from 0 or, as RoBERTa's kin and MPNet do, past the padding id."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from embeddings_gateway.backends.hf.network.packed import Packed


class Offset(NamedTuple):
    """Positions that do not count from 0.

    Attributes:
        padding: the padding id. Positions count from ``padding + 1`` and leave out tokens that are this id;
            those have the position ``padding``, also inside a text.
        longest: the tokens for which there are positions.
    """

    padding: int
    longest: int


def offset_of(model: nn.Module) -> Offset | None:
    """Tell how a transformer's positions are offset; ``None`` where they count from 0."""
    # The models that do so are the only ones with a module that has a padding_idx and a table of positions.
    for module in model.modules():
        table, padding = getattr(module, "position_embeddings", None), getattr(module, "padding_idx", None)
        if isinstance(table, nn.Embedding) and isinstance(padding, int):
            return Offset(padding, table.num_embeddings - padding - 1)
    return None


def number(batch: Packed, offset: Offset | None) -> Tensor:
    """Return the position that each token has when its input is alone, int64 ``[tokens]``."""
    if offset is None:
        return batch.places
    counted = (batch.ids != offset.padding).long()
    through = counted.cumsum(0)
    before = (through - counted)[batch.starts][batch.owners]
    return (through - before) * counted + offset.padding
