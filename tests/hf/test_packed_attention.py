"""Attention over packed batches, and what it refuses to be used for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="the hf extra is not installed")

import torch
from torch.nn.functional import scaled_dot_product_attention

from embeddings_gateway.backends.hf.network.packed_attention import (
    UnpackableError,
    layer_attention,
    packed_attention,
)

LENGTHS = (1, 7, 3, 12)
CU_SEQLENS = torch.tensor([0, 1, 8, 11, 23], dtype=torch.int32)
WINDOWS = {"all": (-1, -1), "causal": (-1, 0), "near": (3, 3), "causal and near": (2, 0)}
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = [
    pytest.param(("cpu", torch.float32, 1e-5), id="cpu"),
    pytest.param(("cuda", torch.bfloat16, 3e-2), id="gpu", marks=ON_GPU),
]


def made(heads, width=32):
    """Return random vectors ``[tokens, heads, width]``."""
    return torch.randn(sum(LENGTHS), heads, width)


def mask(window):
    """Return which token sees which, by the definition, over all inputs at once."""
    sequence_ids = [i for i, length in enumerate(LENGTHS) for _ in range(length)]
    left, right = (len(sequence_ids) if reach < 0 else reach for reach in window)
    rows = [
        [sequence_ids[i] == sequence_ids[j] and -left <= j - i <= right for j in range(len(sequence_ids))]
        for i in range(len(sequence_ids))
    ]
    return torch.tensor(rows)


@pytest.mark.parametrize("window", sorted(WINDOWS))
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("place", DEVICES)
def test_attention_is_that_of_a_mask(window, groups, scale, place):
    """Attention over a packed batch is attention with a mask that keeps them apart, for every window."""
    torch.manual_seed(0)
    device, dtype, tolerance = place
    query, key, value = (t.to(device, dtype) for t in (made(4), made(groups), made(groups)))
    ends = {"cu_seqlens": CU_SEQLENS.to(device), "max_seqlen": max(LENGTHS)}
    out = packed_attention(query, key, value, **ends, scale=scale, window=WINDOWS[window])
    plain = scaled_dot_product_attention(
        *(t.float().transpose(0, 1)[None] for t in (query, key, value)),
        attn_mask=mask(WINDOWS[window]).to(device),
        scale=scale,
        enable_gqa=True,
    )
    assert out.dtype == dtype
    assert torch.allclose(out.float(), plain[0].transpose(0, 1), atol=tolerance)


@pytest.mark.parametrize(
    ("layer", "options", "window"),
    [
        (False, {}, "all"),
        (True, {}, "causal"),
        (True, {"is_causal": False}, "all"),
        (False, {"sliding_window": 4}, "near"),
        (True, {"sliding_window": 3, "softcap": None, "dropout": 0.0}, "causal and near"),
    ],
)
def test_window(layer, options, window):
    """What transformers says of causality and windows is understood as its own kernels understand it."""
    torch.manual_seed(0)
    rows = [made(2) for _ in range(3)]
    turned = [t.transpose(0, 1)[None] for t in rows]
    ends = {"cu_seq_lens_q": CU_SEQLENS, "max_length_q": max(LENGTHS)}
    out, weights = layer_attention(SimpleNamespace(is_causal=layer), *turned, None, **ends, **options)
    plain = packed_attention(*rows, cu_seqlens=CU_SEQLENS, max_seqlen=12, scale=None, window=WINDOWS[window])
    assert weights is None
    assert torch.equal(out, plain[None])


@pytest.mark.parametrize(
    ("mask", "options", "reason"),
    [
        (torch.ones(1, 1, 23, 23), {}, "a mask of its own"),
        (None, {"position_bias": torch.zeros(1)}, "position_bias"),
        (None, {"softcap": 30.0}, "softcap"),
        (None, {"s_aux": torch.zeros(2)}, "s_aux"),
        (None, {"cu_seq_lens_q": None}, "where inputs end"),
    ],
)
def test_refusals(mask, options, reason):
    """What a model wants beyond windows and causality is refused, and never left out in silence."""
    rows = [made(2).transpose(0, 1)[None] for _ in range(3)]
    ends = {"cu_seq_lens_q": CU_SEQLENS, "max_length_q": max(LENGTHS)}
    with pytest.raises(UnpackableError, match=reason):
        layer_attention(SimpleNamespace(is_causal=False), *rows, mask, **{**ends, **options})
