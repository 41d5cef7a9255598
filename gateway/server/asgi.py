"""Calls an ASGI application for a request: makes the scope, and translates the messages."""

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
"""The key of a scope for its :class:`Request`."""


async def call_asgi(
    app: ASGIApp,
    request: Request,
    max_body_bytes: int,
    more_lines: Callable[[int], bytes],
    more_scope: Mapping[str, object],
) -> None:
    """Let an ASGI application answer a request.

    ``more_lines`` returns header lines to add to a response of some status; ``more_scope`` is added to the scope.

    Raises:
        GatewayError, ClientGone: see :meth:`Request.read`.
    """
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:  # wait for a disconnect, which cancels the task
            await asyncio.get_running_loop().create_future()
        is_read = True
        body = await request.read(max_body_bytes, math.inf)
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            length = dict(message["headers"]).get(b"content-length")
            lines = [b"%b: %b\r\n" % header for header in message["headers"]]
            lines.append(more_lines(message["status"]))
            request.start(message["status"], b"".join(lines), None if length is None else int(length))
        else:
            await request.write(message.get("body", b""), last=not message.get("more_body", False))

    head = request.head
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "method": "GET" if head.method == "HEAD" else head.method,  # ``Request.write`` leaves the body out
        "scheme": "http",
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "root_path": "",
        "headers": head.headers,
        "client": None,
        "server": None,
        REQUEST: request,
        **more_scope,
    }
    await app(scope, receive, send)
