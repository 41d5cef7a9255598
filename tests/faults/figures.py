"""Figures of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def p99(values: Sequence[float]) -> float:
    """Return what 99 % of the values do not exceed."""
    return float(np.percentile(values, 99))


class Slope(NamedTuple):
    """A straight line through points.

    Attributes:
        each: rise for each unit.
        error: its standard error, from the distances of the points, as if these were independent.
    """

    each: float
    error: float


def slope(at: Sequence[float], values: Sequence[float]) -> Slope:
    """Fit a straight line by least squares."""
    (each, _), covariance = np.polyfit(at, values, 1, cov=True)
    return Slope(float(each), float(np.sqrt(covariance[0, 0])))
