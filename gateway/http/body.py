"""Reads the body of a request, within bounds of type, size and time."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request
from litestar.exceptions import InternalServerException

from gateway.errors import BodyTimeout, BodyTooLarge, ClientGone, WrongContentType


async def read_body(request: Request[Any, Any, Any], bytes_max: int, seconds_max: float) -> bytes:
    """Return the whole body.

    Raises:
        WrongContentType: it is not declared as plain application/json.
        BodyTooLarge, BodyTimeout: it is more, or takes longer, than it may.
        ClientGone: the client went away before it was whole.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise WrongContentType("The body has to be application/json; say so in Content-Type.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise WrongContentType("The body must not be compressed.")
    too_large = BodyTooLarge(f"The body has at most {bytes_max} bytes.")
    if int(request.headers.get("content-length", "0")) > bytes_max:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds_max):
            async for chunk in request.stream():
                body += chunk
                if len(body) > bytes_max:
                    raise too_large
    except TimeoutError:
        raise BodyTimeout("The body was not received in time.") from None
    except InternalServerException:  # litestar's word for it
        raise ClientGone from None
    return bytes(body)
