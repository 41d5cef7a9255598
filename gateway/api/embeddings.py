"""``POST /v1/embeddings``: answered without litestar, which only describes it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from litestar import post
from litestar.handlers import HTTPRouteHandler

from embeddings_gateway.api.decode import Decoder
from embeddings_gateway.api.encode import encode_response, response_bytes
from embeddings_gateway.api.errors import error_detail
from embeddings_gateway.api.middleware import RequestLog
from embeddings_gateway.api.openapi import EmbeddingsOperation
from embeddings_gateway.api.paths import EMBEDDINGS
from embeddings_gateway.api.schemas import (
    INPUT_TYPE,
    TRUNCATE,
    EmbeddingRequest,
    check_content,
    deadline_of,
    inputs_of,
)
from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import InternalError
from embeddings_gateway.server.request import Request
from embeddings_gateway.serving.registry import Named, Registry
from embeddings_gateway.serving.served import Call, Caller, CallOptions, InputLimits


class Embeddings:
    """Answers requests for embeddings.

    Raises:
        GatewayError: the request is refused or fails. Nothing has been sent.
        ClientGone: the client disconnected.
    """

    def __init__(self, registry: Registry, server: ServerConfig) -> None:
        self._registry = registry
        self._server = server
        self._decoder = Decoder(server)
        self._limits = InputLimits(server.max_input_chars, server.max_input_ids)

    async def __call__(self, request: Request, log: RequestLog) -> Sequence[bytes]:
        """Return the body of the response.

        The texts and vectors of the request are freed before it is sent: a client may read slowly.
        """
        self._registry.refuse_if_draining()
        fields = request.head.fields
        deadline = deadline_of(fields, log.arrived, self._server.request_timeout_s)
        check_content(fields)
        content = await request.read(self._server.max_body_bytes, deadline)
        body = await self._decoder.decode_any(content, needs_model=log.path_model is None)
        named = self._registry.find(log.path_model or body.model)
        served = named.served
        log.model = served.name
        info = served.info
        log.fingerprint = info.fingerprint if info else ""
        call = self._call(body, named, request, deadline)
        log.inputs = len(call.inputs)
        log.timings = call.timings
        encoding_format = body.encoding_format or "float"
        if info:
            dimensions = min(info.dimensions_for(body.dimensions), info.dimensions)
            request.reserve(response_bytes(log.inputs, dimensions, encoding_format))
        result = await served.run(call)
        log.tokens = result.tokens
        log.truncated = result.truncated
        log.averaged = result.averaged
        log.prompt = result.prompt
        began = time.monotonic()
        pieces = await encode_response(
            result.vectors,
            {index: error_detail(error) for index, error in result.errors.items()},
            inputs=log.inputs,
            model=log.model,
            tokens=result.tokens,
            encoding_format=encoding_format,
        )
        log.timings["encode"] = time.monotonic() - began
        return pieces

    def _call(self, body: EmbeddingRequest, named: Named, request: Request, deadline: float) -> Call:
        expected_space = request.head.fields.get(b"x-expected-space")
        options = CallOptions(
            dimensions=body.dimensions,
            truncate=TRUNCATE[body.truncate],
            input_type=named.resolve_input_type(INPUT_TYPE[body.input_type]),
            partial=bool(body.partial),
            expected_fingerprint=expected_space.decode("latin-1") if expected_space else None,
        )
        inputs = inputs_of(body, self._server.max_inputs, self._limits)
        return Call(
            inputs.inputs,
            options=options,
            refused=inputs.errors,
            caller=Caller(request.peer),  # until clients have keys
            deadline=deadline,
        )


def embeddings_route() -> HTTPRouteHandler:
    """Return a route that describes the resource, and is never called: see ``Middleware``."""

    @post(EMBEDDINGS, status_code=200, operation_class=EmbeddingsOperation, sync_to_thread=False)
    def create_embedding() -> None:
        """Embed one or many inputs.

        The response has exactly one entry for each input, in the order of the inputs.
        """
        raise InternalError

    return create_embedding
