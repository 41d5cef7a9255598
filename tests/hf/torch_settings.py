"""The plainest way to run a model, for tests of what does not depend on the runtime."""

from __future__ import annotations

TORCH = {"runtime": "torch", "dtype": "fp32", "threads": 1, "max_batch_tokens": 512}
