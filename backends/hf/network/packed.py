"""Several inputs laid end to end, without padding, and what follows from where each of them ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A batch without padding, on the device that computes it. No property makes the device wait.

    Attributes:
        ids: int64 ``[tokens]``, one input after the other; each has one token at least.
        bounds: int32 ``[inputs + 1]``, from 0: input ``i`` is ``ids[bounds[i] : bounds[i + 1]]``.
        longest: tokens of the longest input.
    """

    ids: Tensor
    bounds: Tensor
    longest: int

    @cached_property
    def starts(self) -> Tensor:
        """Where each input begins, int64 ``[inputs]``."""
        return self.bounds[:-1].long()

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each input, int64 ``[inputs]``."""
        return self.bounds.diff().long()

    @cached_property
    def owners(self) -> Tensor:
        """The input that each token belongs to, int64 ``[tokens]``."""
        return torch.repeat_interleave(self.lengths, output_size=self.ids.shape[0])

    @cached_property
    def places(self) -> Tensor:
        """How many tokens of its own input stand before each token, int64 ``[tokens]``."""
        return torch.arange(self.ids.shape[0], device=self.ids.device) - self.starts[self.owners]
