"""Round the whole application: what holds for every answer, whatever made it.

A request id, the headers of a :class:`Record`, one log event and one count for each request, and a proper
error where the application fails in a way that nothing inside caught.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from embeddings_gateway.errors import ClientGone, GatewayError, InternalError
from embeddings_gateway.http import status
from embeddings_gateway.http.client import ARRIVED
from embeddings_gateway.http.record import Record
from embeddings_gateway.log import get_logger
from embeddings_gateway.metrics import PHASES, Metrics
from embeddings_gateway.serving.registry import stopping

SANE_ID = re.compile(rb"^[\w.:-]{1,128}$")
RECORD = "embeddings_gateway.http.record"
EMBEDDINGS = "/v1/embeddings"
PROCESS = secrets.token_hex(8)
CLIENT_GONE = 499  # nobody reads it; it is for log and metrics
QUIET = frozenset({"/livez", "/readyz", "/health", "/metrics"})
PATHS = QUIET | {EMBEDDINGS, "/v1/models", "/docs"}

log = get_logger()
_numbers = itertools.count(1)


class Envelope:
    """An ASGI application round another one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        record = Record(_request_id(scope), scope["path"], scope[ARRIVED])  # type: ignore[literal-required]
        scope[RECORD] = record  # type: ignore[literal-required]

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], *record.headers()]
            await send(message)

        try:
            await self._app(scope, receive, tell)
        except asyncio.CancelledError:  # the server's grace is over; nothing else cancels a request here
            if record.status:
                raise
            record.code = await _tell_error(tell, stopping())
        except ClientGone:
            record.status = CLIENT_GONE
        except GatewayError as error:
            record.code = await _tell_error(tell, error)
        except Exception:
            log.exception("request failed", id=record.id)
            if not record.status:
                record.code = await _tell_error(tell, InternalError())
        finally:
            self._finish(record)

    def _finish(self, record: Record) -> None:
        """Count and log."""
        path = record.path.rstrip("/")
        if path == EMBEDDINGS:
            self._metrics.request(record.model, record.status, record.code, record.seconds)
        emit = log.debug if record.path in QUIET else log.info
        emit(
            "request",
            id=record.id,
            path=path if path in PATHS else "",  # others may hold anything
            model=record.model,
            space=record.space,
            inputs=record.inputs,
            tokens=record.tokens,
            truncated=len(record.truncated),
            **{f"{phase}_ms": round(1000 * record.seconds.get(phase, 0), 2) for phase in PHASES},
            ms=round(1000 * (time.monotonic() - record.began), 2),
            status=record.status,
            code=record.code,
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and SANE_ID.match(value):
            return str(value, "ascii")
    return f"req_{PROCESS}{next(_numbers):08x}"


async def _tell_error(send: Send, error: GatewayError) -> str:
    """Answer with an error, and return its code."""
    told = status.answer(error)
    own = [(name.encode(), value.encode()) for name, value in told.headers.items()]
    length = str(len(told.body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), *own]
    await send({"type": "http.response.start", "status": told.status, "headers": headers})
    await send({"type": "http.response.body", "body": told.body, "more_body": False})
    return told.code
