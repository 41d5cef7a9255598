"""``POST /v1/embeddings``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Request, Response, post
from litestar.enums import MediaType
from litestar.handlers import HTTPRouteHandler

from gateway.config import ServerConfig
from gateway.errors import ClientGone
from gateway.http import status
from gateway.http.body import read_body
from gateway.http.documents import EmbeddingsOperation
from gateway.http.encode import encode_response
from gateway.http.envelope import RECORD
from gateway.http.record import Record
from gateway.http.wire import Decoder, EmbeddingRequest, WireLimits, inputs_of
from gateway.serving.ask import Answer, Ask
from gateway.serving.registry import Registry

T = TypeVar("T")


def embeddings_route(registry: Registry, server: ServerConfig) -> HTTPRouteHandler:
    """Return the handler."""
    decoder = Decoder(server.strict)
    limits = WireLimits(server.inputs_max, server.input_ids_max, server.input_chars_max)

    @post("/v1/embeddings", status_code=200, operation_class=EmbeddingsOperation)
    async def create_embedding(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Embed one or many inputs.

        The answer has exactly one entry for each input, in the order of the inputs.
        """
        record: Record = request.scope[RECORD]  # type: ignore[literal-required]
        asked = decoder.decode(await read_body(request, server.body_bytes_max, server.body_timeout_s))
        model = registry[asked.model]
        record.model = model.name
        info = model.replicas.info
        record.space = info.fingerprint if info else ""
        ask = ask_for(asked, limits, request.headers.get("x-expected-space"), server.request_timeout_s)
        record.inputs = len(ask.inputs)
        answer = await unless_gone(request, model.embed(ask))
        note(record, answer)
        began = time.monotonic()
        body = encode_answer(answer, model.name, ask, asked)
        record.seconds["encode"] = time.monotonic() - began
        return Response(body, media_type=MediaType.JSON)

    return create_embedding


def ask_for(asked: EmbeddingRequest, limits: WireLimits, space: str | None, seconds_max: float) -> Ask:
    """Turn what was sent into what is asked of the model.

    Raises:
        InvalidRequest: the inputs cannot be embedded by any model.
    """
    return Ask(
        inputs=inputs_of(asked, limits),
        dimensions=asked.dimensions,
        truncate=asked.truncate,
        role=asked.input_type,
        partial=bool(asked.partial),
        space=space,
        seconds_max=seconds_max,
    )


def encode_answer(answer: Answer, model: str, ask: Ask, asked: EmbeddingRequest) -> bytes:
    """Return the body of the response: one entry for each input that was asked for."""
    return encode_response(
        answer.vectors,
        {index: status.detail(error) for index, error in answer.errors.items()},
        inputs=len(ask.inputs),
        model=model,
        tokens=answer.tokens,
        encoding_format=asked.encoding_format or "float",
    )


def note(record: Record, answer: Answer) -> None:
    """Write what the model told of the request into its record."""
    record.tokens = answer.tokens
    record.truncated = answer.truncated
    record.seconds = dict(answer.seconds)


async def unless_gone(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, or cancel it as soon as the client goes away.

    Raises:
        ClientGone: it did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _gone(request: Request[Any, Any, Any]) -> None:
    """Return when the client goes away. The body has been read, so nothing else is to be received."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
