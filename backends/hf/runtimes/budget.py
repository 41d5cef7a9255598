"""How many tokens make a batch worth while: measured, within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from embeddings_gateway.backends.base import TokenIds

CPU_CANDIDATES = (256, 512, 1024, 2048)
GPU_CANDIDATES = (4096, 8192, 16384, 32768)
SECONDS_MAX = 2.0
INPUT_TOKENS = 32
ROUNDS = 3
NEAR_BEST = 0.98


def measure(run: Callable[[Sequence[TokenIds]], object], device: str, token: int, tokens_max: int) -> int:
    """Return the smallest of the candidates whose speed is near that of the best: a larger one only waits.

    Args:
        run: computes a batch.
        device: where.
        token: any id of the vocabulary.
        tokens_max: the longest input that the model takes.
    """
    speeds: dict[int, float] = {}
    length = min(INPUT_TOKENS, tokens_max)
    end = time.perf_counter() + SECONDS_MAX
    for tokens in CPU_CANDIDATES if device == "cpu" else GPU_CANDIDATES:
        batch = [np.full(length, token, np.int32)] * (tokens // length)
        speeds[tokens] = tokens / _seconds(run, batch)
        if time.perf_counter() >= end:
            break
    best = max(speeds.values())
    return next(tokens for tokens, speed in speeds.items() if speed >= NEAR_BEST * best)


def _seconds(run: Callable[[Sequence[TokenIds]], object], batch: Sequence[TokenIds]) -> float:
    """Return the time of one batch, once its kernels are made."""
    run(batch)
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run(batch)
        taken.append(time.perf_counter() - began)
    return min(taken)
