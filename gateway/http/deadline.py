"""How long a request may take: as long as its client says, within what the gateway gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from embeddings_gateway.errors import DeadlinePassed, InvalidRequest

T = TypeVar("T")

NAME = "x-request-timeout-ms"
HEADER = NAME.encode()


class Deadline(NamedTuple):
    """When a request has to be done.

    Attributes:
        at: monotonic seconds.
        asked: whether the client said so itself.
    """

    at: float
    asked: bool

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            DeadlinePassed: there are none.
        """
        seconds = self.at - time.monotonic()
        if seconds <= 0:
            raise DeadlinePassed
        return seconds

    async def bounds(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that has a bound of its own beside what the gateway gives, but none beside the client's.

        Raises:
            DeadlinePassed: the client's time is over.
        """
        if not self.asked:
            return await work
        try:
            async with asyncio.timeout(self.at - time.monotonic()):
                return await work
        except TimeoutError:
            raise DeadlinePassed from None


def deadline_of(headers: Mapping[bytes, bytes], began: float, seconds_max: float) -> Deadline:
    """Return the deadline of a request.

    Args:
        headers: of the request, by their names in lower case.
        began: when its head had arrived; monotonic seconds.
        seconds_max: what the gateway gives.

    Raises:
        InvalidRequest: what the client says is no whole number of milliseconds, or 0.
    """
    said = headers.get(HEADER)
    if said is None:
        return Deadline(began + seconds_max, False)
    if not said.isdigit() or not said.strip(b"0"):
        raise InvalidRequest("The time for a request is a whole number of milliseconds, at least 1.", NAME)
    return Deadline(began + min(float(said) / 1000, seconds_max), True)  # a float takes any number of digits
