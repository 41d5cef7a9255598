"""Inputs that a conversion is made and judged with, and the vectors that torch gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from embeddings_gateway.backends.base import TokenIds, Vectors
from embeddings_gateway.backends.hf.network.network import Network
from embeddings_gateway.backends.hf.text.tokenizer import HfTokenizer

LENGTHS = (1, 1, 1, 1, 2, 3, 5, 8)
"""How many texts are joined to one input, over and over: so short and long ones stand side by side."""

TOKENS_MAX = 512


def inputs_of(tokenizer: HfTokenizer, texts: Sequence[str], tokens_max: int, size: int) -> list[TokenIds]:
    """Return inputs of many lengths that the model can take: each text, some joined with those after it.

    Args:
        tokenizer: the model's own.
        texts: in the order in which they are joined.
        tokens_max: what is longer is cut, and keeps its special tokens.
        size: of the vocabulary; inputs with ids outside it are left out.
    """
    made = tokenizer.tokenize(list(_joined(texts)))
    suffix = len(tokenizer.suffix)
    cut = [
        ids if len(ids) <= tokens_max else np.r_[ids[: tokens_max - suffix], ids[len(ids) - suffix :]]
        for ids in made
    ]
    return [ids for ids in cut if len(ids) and int(ids.max()) < size]


@torch.inference_mode()
def vectors_of(network: Network, inputs: Sequence[TokenIds]) -> Vectors:
    """Return float32 ``[inputs, dimensions]``, each input computed alone."""
    rows = []
    for ids in inputs:
        row = torch.from_numpy(ids.astype(np.int64))[None]
        rows.append(network(row, torch.ones_like(row)).numpy())
    return np.concatenate(rows).astype(np.float32)


def _joined(texts: Sequence[str]) -> Iterator[str]:
    for place in range(len(texts)):
        yield " ".join(texts[place : place + LENGTHS[place % len(LENGTHS)]])
