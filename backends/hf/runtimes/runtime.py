"""What every runtime of a Network is: the seam between the model and the engine that computes it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backends.base import Vectors

Padded = NDArray[np.int64]
"""A batch as one array, shape ``[inputs, tokens]``, rows padded on the right."""


class Runtime(Protocol):
    """An engine that holds one Network. Used by one thread.

    Attributes:
        name: ``torch``, ...
        dtype: of weights and arithmetic in the transformer, as users write it.
        device: where it runs, with its number where there may be several.
        batch_tokens: the cost of a batch from which on it gets no faster, in tokens.
    """

    name: str
    dtype: str
    device: str
    batch_tokens: int

    def run(self, ids: Padded, mask: Padded) -> Vectors:
        """Compute one vector per row.

        Raises:
            EmbedError: the engine failed. The message holds nothing of the input.
        """

    def close(self) -> None:
        """Give the memory back."""
