"""Pooling by mask: against plain formulas, whatever side the padding is on."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

import torch

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.backends.hf.network.network import MODES, Network, pool
from embeddings_gateway.backends.hf.runtimes.runtime import pad
from embeddings_gateway.backends.hf.tokenizer import EndTokens, HfTokenizer, open_vocabulary
from tests.cosine import lowest_cosine
from tests.hf.loading import load_transformer
from tests.hf.reference import POOLING
from tests.texts import varied_texts

LENGTHS = (1, 2, 5, 9)


def padded(side):
    """Return token vectors of inputs of several lengths, NaN for padding, the mask, and the inputs."""
    source = torch.Generator().manual_seed(3)
    tokens = torch.randn(len(LENGTHS), max(LENGTHS), 6, generator=source)
    mask = torch.zeros(tokens.shape[:2], dtype=torch.int64)
    for row, length in enumerate(LENGTHS):
        start = 0 if side == "right" else max(LENGTHS) - length
        mask[row, start : start + length] = 1
    tokens[mask == 0] = float("nan")
    return tokens, mask, [tokens[row][mask[row] == 1].numpy() for row in range(len(LENGTHS))]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", sorted(MODES))
def test_formula(mode, side):
    """Every mode is its textbook formula over the tokens alone, with padding on either side."""
    tokens, mask, inputs = padded(side)
    expected = np.stack([POOLING[mode](rows) for rows in inputs])
    assert np.allclose(pool(tokens, mask, [mode]).numpy(), expected, atol=1e-6)


def test_joined_in_order():
    """Several modes are joined end to end in the order given."""
    tokens, mask, _ = padded("right")
    both = pool(tokens, mask, ["max", "cls"])
    assert torch.equal(both, torch.cat([pool(tokens, mask, ["max"]), pool(tokens, mask, ["cls"])], dim=1))


@pytest.mark.parametrize("mode", sorted(MODES))
def test_fp32_arithmetic(mode):
    """Token vectors in bf16 are pooled in fp32."""
    tokens, mask, _ = padded("right")
    narrow = tokens.bfloat16()
    pooled = pool(narrow, mask, [mode])
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, pool(narrow.float(), mask, [mode]))


@pytest.mark.parametrize(("family", "mode"), [("qwen3", "last"), ("qwen3", "mean"), ("t5", "mean")])
def test_padding_on_the_left(tiny, family, mode):
    """Models that know only relative positions give the same vectors with padding on the left."""
    encoder = load_transformer(tiny(family))
    network = Network(encoder.model, [mode], [], normalize=True)
    tokenizer = HfTokenizer(open_vocabulary(tiny(family), lower_case=False), EndTokens())
    batch = [ids for ids in tokenizer.tokenize(varied_texts(40)) if len(ids) < 60]
    ids, mask = (torch.from_numpy(array) for array in pad(Batch.of(batch), encoder.facts.pad_id))
    shifts = mask.shape[1] - mask.sum(1)
    left = [torch.stack([row.roll(int(n)) for row, n in zip(t, shifts, strict=True)]) for t in (ids, mask)]
    with torch.inference_mode():
        assert lowest_cosine(network(ids, mask).numpy(), network(*left).numpy()) >= 0.99999


def test_pad():
    """Inputs are filled up on the right with the padding id, and the mask says where."""
    ids, mask = pad(Batch.of([np.array([5, 6], np.int32), np.array([7], np.int32)]), pad_id=1)
    assert ids.tolist() == [[5, 6], [7, 1]]
    assert mask.tolist() == [[1, 1], [1, 0]]
    assert ids.dtype == mask.dtype == np.int64
