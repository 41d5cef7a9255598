"""What measuring needs, or else these tests are skipped."""

from __future__ import annotations

import pytest

pytest.importorskip("psutil", reason="the extra bench is not installed")
pytest.importorskip("matplotlib", reason="the extra bench is not installed")
pytest.importorskip("tokenizers", reason="the extra hf is not installed")
