"""The plain way to get a vector: one text at a time, no padding, no batch, pooled with numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, T5EncoderModel

from tests.cosine import unit

Matrix = NDArray[np.float32]


def _weighted(tokens: Matrix) -> Matrix:
    weights = np.arange(1, len(tokens) + 1)
    return (tokens * weights[:, None]).sum(0) / weights.sum()


POOLING: Mapping[str, Callable[[Matrix], Matrix]] = {
    "cls": lambda tokens: tokens[0],
    "mean": lambda tokens: tokens.mean(0),
    "max": lambda tokens: tokens.max(0),
    "mean_sqrt_len": lambda tokens: tokens.sum(0) / len(tokens) ** 0.5,
    "last": lambda tokens: tokens[-1],
    "weighted_mean": _weighted,
}


def reference(directory: Path, inputs: list[NDArray[np.int32]], pooling: str) -> Matrix:
    """Return unit vectors ``[inputs, width]`` of token ids, made by transformers alone."""
    family = T5EncoderModel if '"t5"' in (directory / "config.json").read_text() else AutoModel
    model = family.from_pretrained(directory, dtype=torch.float32).eval()
    rows = []
    for ids in inputs:
        with torch.inference_mode():
            tokens = model(input_ids=torch.tensor(ids[None], dtype=torch.long)).last_hidden_state[0]
        rows.append(POOLING[pooling](tokens.numpy()))
    return unit(np.stack(rows))
