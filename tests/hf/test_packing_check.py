"""The packing check, on computations that are right and wrong."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.backends.hf.runtimes.torch_runtime import (
    PACKING_LENGTHS,
    PACKING_TOKENS_MAX,
    packing_check,
    packing_probes,
)

TABLE = np.random.default_rng(9).normal(size=(100, 16)).astype(np.float32)
INPUTS, OTHERS = (packing_probes(64, 100, seed) for seed in (1, 2))
EXPECTED = np.stack([TABLE[ids].mean(0) for ids in INPUTS.split()])


def right(batch):
    """Give each input the mean of its own tokens."""
    return np.stack([TABLE[ids].mean(0) for ids in batch.split()])


def leaking(share):
    """Return a computation that lets a share of its neighbours into each vector."""
    return lambda batch: right(batch) + share * right(Batch.of([batch.ids]))


def judged(packed, near=0.999):
    """Judge a computation."""
    return packing_check(packed, INPUTS, OTHERS, EXPECTED, near)


def test_right():
    """What gives each input its own vector falls short of nothing."""
    assert judged(right, 0.99999) == ""


def test_wrong_in_a_batch():
    """Vectors that are right alone and wrong in a batch are found."""
    assert "cosine" in judged(lambda batch: right(batch) if len(batch) == 1 else leaking(1)(batch))


def test_wrong_alone():
    """Vectors that are wrong in a batch of one are found."""
    assert "cosine" in judged(lambda batch: right(batch) if len(batch) > 1 else -right(batch))


def test_small_leak():
    """A leak too small for the bound that bf16 leaves is found by other neighbours."""
    assert "beside" in judged(leaking(0.02))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_no_vectors(value):
    """Vectors that are zero or not finite are found."""
    assert judged(lambda batch: np.full((len(batch), 16), value, np.float32)) != ""


def test_probes():
    """Probes are of many lengths within the model's limit, that limit itself among them, and repeat."""
    probes = packing_probes(64, 100, 1)
    assert probes.lengths.tolist() == [*(min(length, 64) for length in PACKING_LENGTHS), 64]
    assert packing_probes(100_000, 100, 1).lengths.max() == PACKING_TOKENS_MAX
    assert (probes.ids == INPUTS.ids).all()
    assert probes.ids.min() >= 0
    assert probes.ids.max() < 100
