"""Chunks in order: whatever is added, removed and divided, the order and the sums are right."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings_gateway.batching import chunks
from embeddings_gateway.batching.chunks import Chunk, ChunkOrder
from tests.gateway.fakes import make_request

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5)),
        st.tuples(st.sampled_from(["remove", "divide"]), st.integers(0, 100)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=60)
def test_order_and_sums(steps):
    """It is a sorted list whose tokens up to any place are known; of equals the first comes first."""
    chunks.MAX_BLOCK = 3

    async def run():
        request = make_request(1, 2, 3)
        order, expected = ChunkOrder(), []
        for number, (verb, value) in enumerate(steps):
            if verb == "add":
                lengths = np.array([number + 1, number + 2], np.int32)
                expected.append(Chunk(request, np.arange(2), lengths, (float(value), number), False))
                order.add(expected[-1])
            elif expected and verb == "remove":
                order.remove(expected.pop(value % len(expected)))
            elif expected and len(chunk := expected[value % len(expected)]) > 1:
                assert order.split_off(chunk, np.array([0])).tokens == chunk.tokens - 1
            expected.sort(key=lambda chunk: chunk.place)
            assert list(order) == expected
            assert bool(order) == bool(expected)
            assert order.tokens == sum(chunk.tokens for chunk in expected)
            for finish in range(-1, 6):
                assert order.tokens_until(finish) == sum(c.tokens for c in expected if c.place[0] <= finish)

    try:
        asyncio.run(run())
    finally:
        chunks.MAX_BLOCK = MAX_BLOCK


MAX_BLOCK = chunks.MAX_BLOCK
