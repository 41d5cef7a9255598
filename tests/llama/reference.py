"""Vectors made the plain way: one input at a time, by transformers, pooled with numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tests.cosine import unit


def plain(model, inputs: Sequence[np.ndarray], pooling: str) -> np.ndarray:
    """Return unit vectors of token ids, one input at a time, by transformers alone."""
    rows = []
    for ids in inputs:
        with torch.inference_mode():
            tokens = model(torch.tensor(ids[None], dtype=torch.long)).last_hidden_state[0].numpy()
        rows.append({"cls": tokens[0], "last": tokens[-1], "mean": tokens.mean(0)}[pooling])
    return unit(np.stack(rows))
