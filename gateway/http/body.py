"""Reads the body of a request, within bounds of type, size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from litestar.types import Receive

from gateway.errors import BodyTimeout, BodyTooLarge, ClientGone, WrongContentType


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, bytes_max: int, seconds_max: float
) -> bytes:
    """Return the whole body.

    Args:
        headers: of the request, by their names in lower case.
        receive: gives the request's ASGI messages.
        bytes_max: how large the body may be.
        seconds_max: how long it may take.

    Raises:
        WrongContentType: it is not declared as plain application/json.
        BodyTooLarge, BodyTimeout: it is more, or takes longer, than it may.
        ClientGone: the client went away before it was whole.
    """
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise WrongContentType("The body has to be application/json; say so in Content-Type.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise WrongContentType("The body must not be compressed.")
    if int(headers.get(b"content-length", b"0")) > bytes_max:
        raise _too_large(bytes_max)
    try:
        async with asyncio.timeout(seconds_max):
            return await _joined(receive, bytes_max)
    except TimeoutError:
        raise BodyTimeout("The body was not received in time.") from None


async def _joined(receive: Receive, bytes_max: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        body += message["body"]
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        if not message["more_body"]:
            return bytes(body)


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body has at most {bytes_max} bytes.")
