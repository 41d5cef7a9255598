"""From inputs of different lengths to one array: padded, or laid end to end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import TokenIds

Padded = NDArray[np.int64]
"""A batch as one array, shape ``[inputs, tokens]``, rows padded on the right."""


def pad(batch: Sequence[TokenIds], pad_id: int, length: int = 0) -> tuple[Padded, Padded]:
    """Fill every input up on the right to one length; return ids and mask.

    On the right, because then each token stands at the position that it has when its input is alone:
    that is right for models with a table of positions and for decoders alike, without position ids.

    Args:
        batch: at least one input, at least one token in each.
        pad_id: the model's own padding id.
        length: that they are filled up to at least, if it is more than the longest has.
    """
    lengths = np.fromiter(map(len, batch), np.int64, len(batch))
    present = np.arange(max(length, lengths.max())) < lengths[:, None]
    ids = np.full(present.shape, pad_id, np.int64)
    ids[present] = np.concatenate(batch)
    return ids, present.astype(np.int64)


def join(batch: Sequence[TokenIds]) -> tuple[TokenIds, NDArray[np.int32]]:
    """Lay the inputs end to end; return ids ``[tokens]`` and where inputs begin and end, ``[inputs + 1]``.

    Args:
        batch: at least one input, at least one token in each.
    """
    bounds = np.zeros(len(batch) + 1, np.int32)
    np.cumsum([len(ids) for ids in batch], out=bounds[1:])
    return np.concatenate(batch), bounds
