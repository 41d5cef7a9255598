"""Inputs that crashed a worker, remembered for a while: sending one again crashes no other worker."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

REMEMBERED_S = 600.0
MAX_REMEMBERED = 4096


class Quarantine:
    """The inputs that are known to crash a worker. Only a keyed hash of each is kept.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, content: bytes) -> None:
        """Remember an input by its content: the bytes of its token ids, or of its text."""
        digest = self._digest(content)
        self._until[digest] = self._clock() + REMEMBERED_S
        self._until.move_to_end(digest)
        if len(self._until) > MAX_REMEMBERED:
            self._until.popitem(last=False)

    def __contains__(self, content: bytes) -> bool:
        while self._until and next(iter(self._until.values())) <= self._clock():
            self._until.popitem(last=False)
        return bool(self._until) and self._digest(content) in self._until

    def _digest(self, content: bytes) -> bytes:
        return hashlib.blake2b(content, key=self._key, digest_size=16).digest()
