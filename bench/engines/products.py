"""Products of matrices with constant weights, timed: what the two engines of the ceiling have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from bench.engines.clock import per_second
from bench.engines.command import Answer, Command, Multiply, Rate
from bench.engines.desk import Respond

Product = Callable[[], object]


def respond_with(makers: Mapping[str, Callable[[Multiply], Product]]) -> Respond:
    """Return what answers :class:`Multiply`; each product is laid out once."""
    made: dict[tuple[str, str, int, int, int], Product] = {}

    def respond(command: Command) -> Answer:
        if not isinstance(command, Multiply):
            raise NotImplementedError(type(command).__name__)
        key = (command.engine, command.dtype, command.rows, command.inner, command.columns)
        if key not in made:
            made[key] = makers[command.engine](command)
        return Rate(per_second(made[key], command.seconds))

    return respond


def random(rows: int, columns: int) -> NDArray[np.float32]:
    """Return normally distributed numbers."""
    return np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
