"""What an answer is: right, a refusal that a client may try again, or something that must not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.faults.connection import Reply
from tests.faults.truth import Truth, vectors_of

RETRYABLE = frozenset({429, 503, 504})
RETRY_AFTER_MAX = 120  # official clients give up above it


class Fault(Exception):
    """Something that must not be. The message says what."""


def judge(reply: Reply, request_id: str, truth: Truth, texts: Sequence[str]) -> bool:
    """Return whether the answer is right; it is not if it is a proper refusal.

    Raises:
        Fault: it is neither.
    """
    if reply.headers.get("x-request-id") != request_id:
        raise Fault(f"the answer to {reply.headers.get('x-request-id')} came to {request_id}")
    if reply.status == 200:
        vectors = vectors_of(reply)
        if len(vectors) != len(texts):
            raise Fault(f"{len(vectors)} vectors for {len(texts)} texts")
        if not truth.right(texts, vectors):
            raise Fault(f"wrong vectors for {request_id}")
        return True
    error = error_of(reply)
    if reply.status not in RETRYABLE:
        raise Fault(f"status {reply.status}: {error}")
    if not 1 <= int(reply.headers.get("retry-after", "0")) <= RETRY_AFTER_MAX:
        raise Fault(f"status {reply.status} without Retry-After: {error}")
    return False


def error_of(reply: Reply) -> dict[str, Any]:
    """Return the error of a refusal, after checking its form.

    Raises:
        Fault: it has not the form.
    """
    try:
        error = reply.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise Fault(f"status {reply.status} with {reply.body[:200]!r}") from None
    if error.keys() != {"message", "type", "param", "code"}:
        raise Fault(f"status {reply.status} with {error}")
    return error
