"""The id of an embedding space: two vectors may be compared exactly when their fingerprints are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec


def fingerprint(facts: Mapping[str, object]) -> str:
    """Return 16 hex digits that stay the same for as long as the facts do.

    Args:
        facts: everything a vector depends on, as JSON values: sums of weights and tokenizer, pooling,
            normalisation, prompts, dtype, runtime family.
    """
    canonical = msgspec.json.encode(dict(facts), order="deterministic")
    return hashlib.sha256(canonical).hexdigest()[:16]
