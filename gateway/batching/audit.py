"""Whether vectors that look right belong to their inputs: a sample is computed a second time.

Rows in the wrong order, or of an engine that has begun to miscalculate, are finite and of unit length like
any others. Only computing an input again, by itself, tells.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.backends.selftest import company
from embeddings_gateway.batching.outcome import Outcome

SLACK = 10
"""How much further apart than promised two vectors of one input have to be for an alarm."""


class Audit:
    """Chooses what is computed again, and compares.

    Args:
        every: how many batches of several inputs there are for each that is looked at; 0 is none.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._batches = 0

    def choose(self, rows: Sequence[Outcome | None]) -> int | None:
        """Return which row of a batch is to be computed again, if any."""
        usable = [place for place, row in enumerate(rows) if row is not None]
        if not self._every or len(rows) < 2 or not usable:
            return None
        self._batches = (self._batches + 1) % self._every
        return None if self._batches else random.choice(usable)  # noqa: S311 - a sample, not a secret


def alike(one: NDArray[np.float32], other: NDArray[np.float32], info: ModelInfo) -> bool:
    """Tell whether these can be vectors of one input."""
    least = 1 - SLACK * (1 - company(info))
    return bool(one @ other >= least * np.linalg.norm(one) * np.linalg.norm(other))
