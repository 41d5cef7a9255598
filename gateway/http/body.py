"""Reads the body of a request, within bounds of type and size; the connection knows that of time."""

from __future__ import annotations

from collections.abc import Mapping

from litestar.types import Receive

from embeddings_gateway.errors import BodyTooLarge, ClientGone, WrongContentType
from embeddings_gateway.http.client import Client


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, client: Client, bytes_max: int
) -> bytes:
    """Return the whole body.

    Args:
        headers: of the request, by their names in lower case.
        receive: gives the request's ASGI messages.
        client: who sends it.
        bytes_max: how large the body may be.

    Raises:
        WrongContentType: it is not declared as plain application/json.
        BodyTooLarge: it is more than it may be.
        GatewayError: the connection stops receiving it.
        ClientGone: the client went away before it was whole.
    """
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise WrongContentType("The body has to be application/json; say so in Content-Type.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise WrongContentType("The body must not be compressed.")
    if int(headers.get(b"content-length", b"0")) > bytes_max:
        raise _too_large(bytes_max)
    body = bytearray()
    while True:
        message = await receive()
        if client.refusal is not None:
            raise client.refusal
        if message["type"] != "http.request":
            raise ClientGone
        body += message["body"]
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        if not message["more_body"]:
            return bytes(body)


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body has at most {bytes_max} bytes.")
