"""Pooling of packed batches: against plain formulas and against pooling by mask."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

import torch

from embeddings_gateway.backends.hf.network import network
from embeddings_gateway.backends.hf.network.packed_batch import MODES, PackedTensors, packed_pooling
from tests.hf.reference import POOLING

LENGTHS = (1, 2, 5, 1, 9)
EDGES = (0, 1, 3, 8, 9, 18)


def made():
    """Return token vectors of inputs of several lengths, all below zero, and the batch they belong to."""
    source = torch.Generator().manual_seed(3)
    tokens = -torch.rand(sum(LENGTHS), 6, generator=source) - 1
    ids = torch.zeros(sum(LENGTHS), dtype=torch.int64)
    return tokens, PackedTensors(ids, torch.tensor(EDGES, dtype=torch.int32), max(LENGTHS))


def padded(tokens):
    """Return the same vectors in padded rows, NaN for padding, and their mask."""
    rows = torch.full((len(LENGTHS), max(LENGTHS), tokens.shape[1]), float("nan"), dtype=tokens.dtype)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    rows[mask] = tokens
    return rows, mask.long()


def test_position_ids():
    """The cumulative lengths say which input a token belongs to, and its position there."""
    _, batch = made()
    assert batch.lengths.tolist() == list(LENGTHS)
    assert batch.sequence_ids.tolist() == [0, 1, 1, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4]
    assert batch.position_ids.tolist() == [0, 0, 1, 0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_modes():
    """There are the modes that there are with padding."""
    assert MODES.keys() == network.MODES.keys()


@pytest.mark.parametrize("mode", sorted(MODES))
def test_formula(mode):
    """Every mode is its textbook formula over the tokens of each input, and what pooling by mask gives."""
    tokens, batch = made()
    pooled = packed_pooling(tokens, batch, [mode]).numpy()
    inputs = [tokens[start : start + length].numpy() for start, length in zip(EDGES, LENGTHS, strict=False)]
    assert np.allclose(pooled, np.stack([POOLING[mode](rows) for rows in inputs]), atol=1e-6)
    assert np.allclose(pooled, network.pool(*padded(tokens), [mode]).numpy(), atol=1e-6)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_fp32_arithmetic(mode):
    """Token vectors in bf16 are pooled in fp32."""
    tokens, batch = made()
    narrow = tokens.bfloat16()
    pooled = packed_pooling(narrow, batch, [mode])
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, packed_pooling(narrow.float(), batch, [mode]))


@pytest.mark.parametrize("mode", sorted(MODES))
def test_not_finite_stays_with_its_input(mode):
    """A vector that is not finite spoils the input that it belongs to, and no other."""
    tokens, batch = made()
    tokens[EDGES[2]] = tokens[EDGES[3] - 1] = float("nan")
    finite = torch.isfinite(packed_pooling(tokens, batch, [mode])).all(dim=1)
    assert finite.tolist() == [True, True, False, True, True]


def test_joined_in_order():
    """Several modes are joined end to end in the order given."""
    tokens, batch = made()
    both = packed_pooling(tokens, batch, ["max", "cls"])
    assert torch.equal(
        both, torch.cat([packed_pooling(tokens, batch, [mode]) for mode in ("max", "cls")], dim=1)
    )
