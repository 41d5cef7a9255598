"""Requests of a test, each on a connection of its own, all at the same time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from tests.faults.connection import Connection, Reply, post
from tests.server import WAIT_S, Server

_ids = itertools.count()


def answers(server: Server, model: str, *requests: Sequence[str], **fields: Any) -> list[Reply]:
    """Send requests at the same time; return their answers in order.

    Raises:
        Lost: one has none.
        TimeoutError: nor does its connection end.
    """

    async def all_at_once() -> list[Reply]:
        return await asyncio.gather(*(ask(server, model, texts, **fields) for texts in requests))

    return asyncio.run(all_at_once())


async def ask(server: Server, model: str, texts: Sequence[str], **fields: Any) -> Reply:
    """Send one request, and return its answer; raises as :func:`answers`."""
    request_id = f"ask-{next(_ids)}"
    body = {"model": model, "input": list(texts), "encoding_format": "base64", **fields}
    connection = await Connection.open(server)
    try:
        async with asyncio.timeout(WAIT_S):
            reply = await connection.ask(post(body, request_id))
    finally:
        connection.close()
    assert reply.headers["x-request-id"] == request_id
    return reply
