"""``POST /v1/embeddings``.

An ASGI application of its own: litestar describes it and knows its methods, but what litestar does for each
request costs more than everything else that the gateway does for a small one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from embeddings_gateway.config import InputType, ServerConfig
from embeddings_gateway.http import status
from embeddings_gateway.http.body import read_body
from embeddings_gateway.http.client import CLIENT, Client
from embeddings_gateway.http.deadline import deadline_of
from embeddings_gateway.http.documents import EmbeddingsOperation
from embeddings_gateway.http.encode import encode_response
from embeddings_gateway.http.envelope import EMBEDDINGS, RECORD
from embeddings_gateway.http.record import Record
from embeddings_gateway.http.wire import Decoder, EmbeddingRequest, WireLimits, inputs_of
from embeddings_gateway.serving.ask import Answer, Ask, InputLimits
from embeddings_gateway.serving.registry import Registry


class Embeddings:
    """The ASGI application that answers one ``POST`` with embeddings.

    Raises:
        GatewayError: the request is refused or fails, and nothing has been sent.
        ClientGone: there is nobody to answer.
    """

    def __init__(self, registry: Registry, server: ServerConfig) -> None:
        self._registry = registry
        self._server = server
        self._decoder = Decoder(server.strict)
        self._limits = WireLimits(
            server.max_inputs, InputLimits(server.max_input_chars, server.max_input_ids)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: read, decode, embed, encode, send.

        While it is sent, for as long as the client takes, nothing else of it is held: no text, no vectors.
        """
        await send_json(send, await self._answer(scope, receive))

    async def _answer(self, scope: Scope, receive: Receive) -> Sequence[bytes]:
        """Return the body of the answer."""
        record: Record = scope[RECORD]  # type: ignore[literal-required]
        client: Client = scope[CLIENT]  # type: ignore[literal-required]
        server, headers = self._server, dict(scope["headers"])
        self._registry.admit()
        deadline = deadline_of(headers, record.began, server.request_timeout_s)
        body = await deadline.bounds(read_body(headers, receive, client, server.max_body_bytes))
        asked = self._decoder.decode(body)
        named = self._registry.find(asked.model)
        model = named.model
        record.model = model.name
        info = model.replicas.info
        record.space = info.fingerprint if info else ""
        space = headers.get(b"x-expected-space")
        role = named.role_of(asked.input_type)
        ask = ask_for(asked, role, self._limits, space.decode("latin-1") if space else None, deadline.left())
        record.inputs = len(ask.inputs)
        return await self._encode(await client.awaits(model.embed(ask)), record, ask, asked)

    async def _encode(
        self, answer: Answer, record: Record, ask: Ask, asked: EmbeddingRequest
    ) -> Sequence[bytes]:
        note(record, answer)
        began = time.monotonic()
        pieces = await encode_answer(answer, record.model, ask, asked)
        record.seconds["encode"] = time.monotonic() - began
        return pieces


def embeddings_route(embeddings: Embeddings) -> HTTPRouteHandler:
    """Return the handler that describes the path, and answers where it is spelled in another way."""

    @post(EMBEDDINGS, status_code=200, operation_class=EmbeddingsOperation, sync_to_thread=False)
    def create_embedding() -> ASGIApp:
        """Embed one or many inputs.

        The answer has exactly one entry for each input, in the order of the inputs.
        """
        return embeddings

    return create_embedding


def shortcut(embeddings: Embeddings, app: ASGIApp) -> ASGIApp:
    """Return ``app``, with the requests that are for ``embeddings`` beyond doubt going there at once."""

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        straight = scope.get("path") == EMBEDDINGS and scope.get("method") == "POST"
        await (embeddings if straight else app)(scope, receive, send)

    return route


def ask_for(
    asked: EmbeddingRequest, role: InputType | None, limits: WireLimits, space: str | None, seconds_max: float
) -> Ask:
    """Turn what was sent, and the role that it or the model's name says, into what is asked of the model.

    Raises:
        InvalidRequest: the inputs cannot be embedded by any model.
    """
    inputs = inputs_of(asked, limits)
    return Ask(
        inputs=inputs.given,
        refused=inputs.refused,
        dimensions=asked.dimensions,
        truncate=asked.truncate,
        role=role,
        partial=bool(asked.partial),
        space=space,
        seconds_max=seconds_max,
    )


async def encode_answer(answer: Answer, model: str, ask: Ask, asked: EmbeddingRequest) -> Sequence[bytes]:
    """Return the body of the response: one entry for each input that was asked for."""
    return await encode_response(
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
    record.averaged = answer.averaged
    record.prompt = answer.prompt
    record.seconds = dict(answer.seconds)


async def send_json(send: Send, pieces: Sequence[bytes]) -> None:
    """Send a success whose body is these pieces.

    It waits where the client reads slowly; where it reads as fast as we write, the event loop turns between
    two pieces all the same.
    """
    length = str(sum(map(len, pieces))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    *others, last = pieces
    for piece in others:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": last, "more_body": False})
