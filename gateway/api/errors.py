"""The table from errors to HTTP, and the body of an error response.

Errors that ``litestar`` raises (unknown path, wrong method) get a body of the same shape.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from litestar.exceptions import HTTPException

from embeddings_gateway import errors
from embeddings_gateway.errors import GatewayError


class ErrorDetail(msgspec.Struct, frozen=True):
    """OpenAI's error object. All four keys are always present."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every error response."""

    error: ErrorDetail


class Status(NamedTuple):
    """The HTTP status of an error class, and OpenAI's ``type`` and ``code``."""

    http: int
    type: str
    code: str | None


INVALID = "invalid_request_error"
SERVER = "server_error"

TABLE: dict[type[GatewayError], Status] = {
    errors.InvalidRequest: Status(400, INVALID, None),
    errors.InvalidJson: Status(400, INVALID, "invalid_json"),
    errors.ContextLengthExceeded: Status(400, INVALID, "context_length_exceeded"),
    errors.TooManyTokens: Status(400, INVALID, "max_tokens_per_request"),
    errors.InvalidTokenIds: Status(400, INVALID, "invalid_token_ids"),
    errors.ModelNotFound: Status(404, INVALID, "model_not_found"),
    errors.BodyTimeout: Status(408, INVALID, "request_timeout"),
    errors.SpaceMismatch: Status(412, INVALID, "embedding_space_mismatch"),
    errors.BodyTooLarge: Status(413, INVALID, "request_too_large"),
    errors.WrongContentType: Status(415, INVALID, None),
    errors.NotHttp: Status(400, INVALID, "invalid_http"),
    errors.HeadTimeout: Status(408, INVALID, "request_timeout"),
    errors.HeadTooLarge: Status(431, INVALID, "headers_too_large"),
    errors.Overloaded: Status(429, "overloaded_error", "overloaded"),
    errors.InputFailed: Status(500, SERVER, "input_failed"),
    errors.InternalError: Status(500, SERVER, "internal_error"),
    errors.ModelUnavailable: Status(503, SERVER, "model_unavailable"),
    errors.DeadlinePassed: Status(504, SERVER, "timeout"),
}


class ErrorResponse(NamedTuple):
    """An error as HTTP: status, special headers, the JSON body, and the code for log and metrics."""

    status: int
    headers: dict[str, str]
    body: bytes
    code: str

    @property
    def lines(self) -> bytes:
        """The header lines."""
        special = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        return f"content-type: application/json\r\n{special}".encode()


def error_detail(error: GatewayError) -> ErrorDetail:
    """Return the error object for ``error``."""
    status = TABLE[type(error)]
    return ErrorDetail(error.message, status.type, error.param, status.code)


def error_response(error: Exception) -> ErrorResponse:
    """Return the response to a request that ended with ``error``."""
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _framework_response(error)
    if not isinstance(error, GatewayError):
        error = errors.InternalError()
    status = TABLE[type(error)]
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if isinstance(error, errors.InputFailed):
        headers["x-should-retry"] = "false"
    return ErrorResponse(status.http, headers, _body(error_detail(error)), status.code or "invalid_request")


NO_SUCH_PATH = (
    "There is no such path. POST /v1/embeddings embeds texts, GET /v1/models lists the models and /docs describes "
    "both; a client's base URL ends in /v1."
)


def _framework_response(error: HTTPException) -> ErrorResponse:
    headers = {
        name.lower(): value for name, value in (error.headers or {}).items() if name.lower() == "allow"
    }
    methods = [method for method in headers.get("allow", "").split(", ") if method != "OPTIONS"]
    messages = {404: NO_SUCH_PATH, 405: f"That path takes {' or '.join(methods) or 'another method'} only."}
    message = messages.get(error.status_code, "The request cannot be answered.")
    body = _body(ErrorDetail(message, INVALID, None, None))
    return ErrorResponse(error.status_code, headers, body, f"http_{error.status_code}")


def _body(error: ErrorDetail) -> bytes:
    return msgspec.json.encode(ErrorBody(error))
