"""A full queue, for clients that are to be refused and to come back."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import httpx

from tests.server import WAIT_S, Server, eventually

FILLING = "a" * 96
"""Two of these fit into the queue of the model ``slow``, and are a second's work each."""

ASKING = "b" * 110
"""This does not fit beside one of them."""

T = TypeVar("T")


def after_a_refusal(gateway: Server, requests: Callable[[str, int], int], ask: Callable[[], T]) -> T:
    """Return what ``ask`` returns, which sends :data:`ASKING` to ``slow`` and is refused at least once.

    The queue is kept full until somebody is refused. It empties for a moment between two batches, in which
    ``ask`` may be served at once: then it is called again.

    Args:
        requests: of the fixture.
    """
    of_ours = 0
    while True:
        answer, refused = _beside_a_crowd(
            gateway.url, lambda known=of_ours: requests("slow", 429) > known, ask
        )
        of_ours += refused
        if requests("slow", 429) > of_ours:
            return answer


def _beside_a_crowd(url: str, refused: Callable[[], bool], ask: Callable[[], T]) -> tuple[T, int]:
    """Return the answer, and how often the crowd itself was refused."""
    over = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        crowd = [pool.submit(_fill, url, lambda: over.is_set() or refused()) for _ in range(2)]
        try:
            eventually(lambda: _waiting(url) > 0)
            answer = ask()
        finally:
            over.set()
    return answer, sum(filling.result() for filling in crowd)


def _fill(url: str, enough: Callable[[], bool]) -> int:
    refused = 0
    body = {"model": "slow", "input": FILLING}
    while not enough():
        refused += httpx.post(f"{url}/v1/embeddings", json=body, timeout=WAIT_S).status_code == 429
    return refused


def _waiting(url: str) -> float:
    match = re.search(r'queue_tokens{model="slow"} (.+)', httpx.get(f"{url}/metrics").text)
    return float(match[1]) if match else 0
