"""How often something can be done."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

WARM_UP = 5


def per_second(act: Callable[[], object], seconds: float) -> float:
    """Return how often a second it can be done, once it is warm; it is done at least once."""
    for _ in range(WARM_UP):
        act()
    count, began, elapsed = 0, perf_counter(), 0.0
    while count == 0 or elapsed < seconds:
        act()
        count += 1
        elapsed = perf_counter() - began
    return count / elapsed
