"""Whether inputs that lie end to end get the vectors that they have alone: tried when a model is loaded.

A list of families would grow old, and would know nothing of the device's kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from embeddings_gateway.backends.base import TokenIds, Vectors
from embeddings_gateway.backends.hf.cosine import cosines
from embeddings_gateway.backends.hf.runtimes.choice import Dtype

LENGTHS = (5, 1, 300, 2, 33, 17, 129, 1)
TOKENS_MAX = 8192
"""The longest input that is tried, if the model takes it: windows of attention show in no shorter ones."""

NEAR: dict[Dtype, float] = {"fp32": 0.99999, "bf16": 0.999}
"""How near to the padded vectors. Two kernels of attention in bf16 differ by 0.00013 on all-MiniLM-L6-v2."""

SAME = 0.99999
"""How near to each other in company of the same lengths, in any dtype: the same arithmetic is done."""


def probes(tokens_max: int, vocabulary: int, seed: int) -> list[TokenIds]:
    """Return inputs of many lengths, of tokens without meaning; the lengths do not depend on the seed.

    Args:
        tokens_max: the longest input that the model takes.
        vocabulary: the number of its tokens.
        seed: tells one series of tokens from another.
    """
    longest = min(tokens_max, TOKENS_MAX)
    source = np.random.default_rng(seed)
    lengths = (*(min(length, longest) for length in LENGTHS), longest)
    return [source.integers(0, vocabulary, length, np.int32) for length in lengths]


def shortfall(
    packed: Callable[[Sequence[TokenIds]], Vectors],
    inputs: Sequence[TokenIds],
    others: Sequence[TokenIds],
    expected: Vectors,
    near: float,
) -> str:
    """Say what is wrong with the packed vectors; empty if nothing is.

    Args:
        packed: computes inputs that lie end to end.
        inputs: probes.
        others: others of the same lengths.
        expected: what the padded network gives each of the inputs alone.
        near: the lowest cosine to those.
    """
    together = packed(inputs)
    for vectors in together, np.concatenate([packed([ids]) for ids in inputs]):
        lowest = cosines(vectors, expected).min()
        if not lowest >= near:  # also where it is NaN
            return (
                f"the cosine to the padded vectors is {lowest:.5f} on probes, and has to be {near} at least"
            )
    for kept in 0, 1:
        mixed = [*others]
        mixed[kept::2] = inputs[kept::2]
        if not cosines(packed(mixed)[kept::2], together[kept::2]).min() >= SAME:
            return "an input's vector depends on those beside it"
    return ""
