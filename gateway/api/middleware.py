"""Every response has a request id, headers, one log event and one count; every error has the same shape."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from embeddings_gateway.api.cors import Cors
from embeddings_gateway.api.errors import error_response
from embeddings_gateway.api.paths import EMBEDDINGS, target_of
from embeddings_gateway.config import ServerConfig
from embeddings_gateway.errors import ClientGone, GatewayError, InternalError
from embeddings_gateway.log import get_logger, log_request
from embeddings_gateway.metrics import PHASES, Metrics
from embeddings_gateway.server.asgi import ASGIApp, call_asgi
from embeddings_gateway.server.request import Head, Request
from embeddings_gateway.serving.registry import stopping

LOG = "embeddings_gateway.api.log"
"""The key of an ASGI scope for its :class:`RequestLog`."""

SANE_ID = re.compile(rb"[\w.:-]{1,128}")
CLIENT_GONE = 499  # only for log and metrics
QUIET_PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics"})
LOGGED_PATHS = QUIET_PATHS | {EMBEDDINGS, "/v1/models", "/docs"}
PHASE_FIELDS = [(phase, f"{phase}_ms") for phase in PHASES]
MAX_LIST_BYTES = 1024
"""Bytes of a list of inputs in a header. Proxies such as nginx accept 4 KiB of headers in all."""

log = get_logger()


@dataclass(slots=True)
class RequestLog:
    """The facts of a request for headers, log and metrics. They are filled in while it is handled.

    Attributes:
        id: the client's, or one of ours.
        path: the one that is meant, without a slash at the end.
        arrived: when its head was complete; monotonic seconds.
        path_model: the model's name in the path, if it is there. It counts more than the body's, as with Azure.
        cors: header lines of the response for a browser.
        model: name of the served model; empty if it is unknown.
        fingerprint: of the embedding space.
        truncated: inputs that were cut.
        averaged: inputs whose vectors are averages of several windows.
        prompt: name of the prompt that was put before the texts.
        timings: phase -> seconds.
        status: of the response; 0 until there is one.
        code: of the error, if there is one.
    """

    id: bytes
    path: str
    arrived: float
    path_model: str | None = None
    cors: bytes = b""
    model: str = ""
    fingerprint: str = ""
    inputs: int = 0
    tokens: int = 0
    truncated: Sequence[int] = ()
    averaged: Sequence[int] = ()
    prompt: str | None = None
    timings: dict[str, float] = field(default_factory=dict)
    status: int = 0
    code: str | None = None

    def lines(self, status: int) -> bytes:
        """Record the status of the response; return our header lines for it."""
        self.status = status
        milliseconds = 1000 * (time.monotonic() - self.arrived)
        lines = b"x-request-id: %b\r\nopenai-processing-ms: %.0f\r\n%b" % (self.id, milliseconds, self.cors)
        if not self.fingerprint:
            return lines
        return lines + self._model_lines().encode()

    def _model_lines(self) -> str:
        lines = ""
        if self.timings:
            phases = [f"{phase};dur={1000 * seconds:.2f}" for phase, seconds in self.timings.items()]
            lines = f"server-timing: {', '.join(phases)}\r\n"
        lines += f"x-embedding-space: {self.fingerprint}\r\n"
        if self.truncated:
            lines += f"x-truncated-inputs: {input_ranges(self.truncated)}\r\n"
        if self.averaged:
            lines += f"x-averaged-inputs: {input_ranges(self.averaged)}\r\n"
        if self.prompt is not None:
            lines += f"x-prompt: {quote(self.prompt)}\r\n"
        return lines


Handler = Callable[[Request, RequestLog], Awaitable[Sequence[bytes]]]


class Middleware:
    """The application that the server calls.

    Args:
        app: answers the requests without a handler.
        handlers: by method and path. They bypass litestar, which would cost a small request more than all other
            steps together. A handler returns the pieces of a JSON body, and may raise any error.
        metrics: counts the requests.
        server: its settings for paths, browsers, and the bodies that ``app`` reads.
    """

    def __init__(
        self,
        app: ASGIApp,
        handlers: Mapping[tuple[str, str], Handler],
        metrics: Metrics,
        server: ServerConfig,
    ) -> None:
        self._app = app
        self._handlers = handlers
        self._metrics = metrics
        self._server = server
        self._cors = Cors(server.cors_origins)
        self._ids = request_ids()

    async def __call__(self, request: Request) -> None:
        """Answer, count and log a request."""
        head = request.head
        request_id = head.fields.get(b"x-request-id", b"")
        if not SANE_ID.fullmatch(request_id):
            request_id = next(self._ids)
        target = target_of(head.path, self._server.root_path)
        cors = self._cors.lines(head.fields)
        request_log = RequestLog(request_id, target.path, head.arrived, target.model, cors)
        try:
            await self._answer(request, request_log)
        except asyncio.CancelledError:
            await self._cancelled(request, request_log)
        except ClientGone:
            request_log.status = CLIENT_GONE
        except GatewayError as error:
            await self._respond_error(request, request_log, error)
        except Exception:
            log.exception("request failed", id=request_id.decode())
            await self._respond_error(request, request_log, InternalError())
        finally:
            self._finish(request_log)

    def is_probe(self, head: Head) -> bool:
        """Return whether a request asks for the gateway's health or metrics."""
        return (
            head.method in ("GET", "HEAD")
            and target_of(head.path, self._server.root_path).path in QUIET_PATHS
        )

    def refusal(self, error: GatewayError) -> tuple[int, bytes, bytes]:
        """Return status, header lines and body for an error that belongs to no request."""
        response = error_response(error)
        return response.status, response.lines + self._cors.lines({}), response.body

    async def _answer(self, request: Request, request_log: RequestLog) -> None:
        head = request.head
        handler = self._handlers.get((head.method, request_log.path))
        if handler is not None:
            await respond_json(request, request_log, await handler(request, request_log))
        elif preflight := self._cors.preflight(head.method, head.fields):
            request.start(204, preflight + request_log.lines(204), None)
            await request.write(b"", last=True)
        else:
            request.head = head._replace(path=request_log.path or "/")
            max_bytes, scope = self._server.max_body_bytes, {LOG: request_log}
            await call_asgi(self._app, request, max_bytes, request_log.lines, scope)

    async def _cancelled(self, request: Request, request_log: RequestLog) -> None:
        """Handle a cancellation: the client disconnected, or the server stops."""
        if request.gone:
            request_log.status = request_log.status or CLIENT_GONE
        else:
            await self._respond_error(request, request_log, stopping())

    async def _respond_error(self, request: Request, request_log: RequestLog, error: GatewayError) -> None:
        """Respond with an error, unless the response has begun: then the server aborts it."""
        if request.started:
            return
        response = error_response(error)
        request_log.code = response.code
        lines = response.lines + request_log.lines(response.status)
        await request.respond(response.status, lines, [response.body])

    def _finish(self, request_log: RequestLog) -> None:
        path, timings = request_log.path, request_log.timings
        answers_options = request_log.status == 204
        if path == EMBEDDINGS and not answers_options:
            self._metrics.request(request_log.model, request_log.status, request_log.code, timings)
        log_request(
            "debug" if path in QUIET_PATHS or answers_options else "info",
            {
                "id": request_log.id.decode(),
                "path": path if path in LOGGED_PATHS else "",  # other paths may hold a user's text
                "model": request_log.model,
                "space": request_log.fingerprint,
                "inputs": request_log.inputs,
                "tokens": request_log.tokens,
                "truncated": len(request_log.truncated),
                **{name: round(1000 * timings.get(phase, 0), 2) for phase, name in PHASE_FIELDS},
                "ms": round(1000 * (time.monotonic() - request_log.arrived), 2),
                "status": request_log.status,
                "code": request_log.code,
            },
        )


async def respond_json(request: Request, request_log: RequestLog, pieces: Sequence[bytes]) -> None:
    """Send a successful response. Its body is JSON in pieces."""
    await request.respond(200, b"content-type: application/json\r\n" + request_log.lines(200), pieces)


def request_ids() -> Iterator[bytes]:
    """Yield ids that are unique among requests and processes."""
    process = secrets.token_hex(8)
    for number in itertools.count(1):
        yield f"req_{process}{number:08x}".encode()


def input_ranges(inputs: Sequence[int]) -> str:
    """Return ascending inputs as ``0,3-5``, ending in ``...`` if there are too many for a header."""
    ranges = ""
    for _, run in itertools.groupby(enumerate(inputs), key=lambda pair: pair[1] - pair[0]):
        indices = [index for _, index in run]
        more = f"{indices[0]}-{indices[-1]}" if len(indices) > 1 else f"{indices[0]}"
        if len(ranges) + len(more) > MAX_LIST_BYTES:
            return f"{ranges},..."
        ranges += f",{more}" if ranges else more
    return ranges
