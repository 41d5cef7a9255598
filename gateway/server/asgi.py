"""An ASGI application behind a request: its scope, and its messages."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from embeddings_gateway.server.request import Request

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Any, Receive, Send], Awaitable[None]]

REQUEST = "embeddings_gateway.server.request"
"""The key of a scope under which its :class:`Request` is."""


async def call_asgi(
    app: ASGIApp,
    request: Request,
    max_body_bytes: int,
    more_lines: Callable[[int], bytes],
    scope: Mapping[str, object],
) -> None:
    """Let an ASGI application answer a request.

    Args:
        app: the application.
        request: what it answers.
        max_body_bytes: bounds the body that it may read.
        more_lines: returns more header lines for a response of that status.
        scope: more keys of its scope.

    Raises:
        GatewayError: the body cannot be received.
        ClientGone: nobody is left to answer.
    """
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:  # the task is cancelled when the client goes: there is nothing more to tell
            await asyncio.get_running_loop().create_future()
        is_read = True
        body = await request.read(max_body_bytes, math.inf)
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            status, headers = message["status"], dict(message["headers"])
            length = headers.get(b"content-length")
            lines = [b"%b: %b\r\n" % header for header in message["headers"]]
            request.start(
                status, b"".join([*lines, more_lines(status)]), None if length is None else int(length)
            )
        else:
            await request.write(message.get("body", b""), last=not message.get("more_body", False))

    await app({**_scope(request), **scope}, receive, send)


def _scope(request: Request) -> dict[str, object]:
    head = request.head
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "method": head.method,
        "scheme": "http",
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "root_path": "",
        "headers": head.headers,
        "client": None,
        "server": None,
        REQUEST: request,
    }
