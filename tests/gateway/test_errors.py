"""The table from errors to HTTP, row by row."""

from __future__ import annotations

import json

import pytest
from litestar.exceptions import (
    InternalServerException,
    MethodNotAllowedException,
    NotFoundException,
)

from embeddings_gateway import errors
from embeddings_gateway.api.errors import TABLE, error_detail, error_response
from embeddings_gateway.errors import GatewayError

INVALID = "invalid_request_error"
ROWS = [
    (errors.InvalidJson("no"), 400, INVALID, "invalid_json"),
    (errors.InvalidRequest("no", "input[17]"), 400, INVALID, None),
    (errors.ContextLengthExceeded("no", "input[17]"), 400, INVALID, "context_length_exceeded"),
    (errors.TooManyTokens("no", "input"), 400, INVALID, "max_tokens_per_request"),
    (errors.InvalidTokenIds("no", "input[17]"), 400, INVALID, "invalid_token_ids"),
    (errors.ModelNotFound("no", "model"), 404, INVALID, "model_not_found"),
    (errors.BodyTimeout("no"), 408, INVALID, "request_timeout"),
    (errors.SpaceMismatch("no", "model"), 412, INVALID, "embedding_space_mismatch"),
    (errors.BodyTooLarge("no"), 413, INVALID, "request_too_large"),
    (errors.WrongContentType("no"), 415, INVALID, None),
    (errors.NotHttp("no"), 400, INVALID, "invalid_http"),
    (errors.HeadTimeout("no"), 408, INVALID, "request_timeout"),
    (errors.HeadTooLarge("no"), 431, INVALID, "headers_too_large"),
    (errors.Overloaded("no", retry_after=7), 429, "overloaded_error", "overloaded"),
    (errors.InputFailed("no", "input[17]"), 500, "server_error", "input_failed"),
    (errors.InternalError(), 500, "server_error", "internal_error"),
    (errors.ModelUnavailable("no", "model", 5), 503, "server_error", "model_unavailable"),
    (errors.DeadlinePassed("no"), 504, "server_error", "timeout"),
]


def tree(root):
    """Return every class below ``root``."""
    return {below for child in root.__subclasses__() for below in (child, *tree(child))}


def test_every_error_has_a_status():
    """The table has every class of the tree, and the rows here are all of them."""
    assert set(TABLE) == tree(GatewayError)
    assert {type(error) for error, *_ in ROWS} == set(TABLE)


@pytest.mark.parametrize(("error", "http", "kind", "code"), ROWS, ids=lambda value: type(value).__name__)
def test_rows(error, http, kind, code):
    """Each error has its status, type and code, and a body of just OpenAI's four keys."""
    response = error_response(error)
    assert response.status == http
    body = {"message": error.message, "type": kind, "param": error.param, "code": code}
    assert json.loads(response.body) == {"error": body}
    assert response.headers.get("retry-after") == (
        None if error.retry_after is None else str(error.retry_after)
    )
    assert response.headers.get("x-should-retry") == ("false" if code == "input_failed" else None)
    assert error_detail(error).code == code


@pytest.mark.parametrize(
    ("error", "http"), [(NotFoundException("/secret"), 404), (MethodNotAllowedException("secret"), 405)]
)
def test_framework(error, http):
    """Errors of the framework get the same shape, without the framework's words."""
    response = error_response(error)
    assert response.status == http
    said = json.loads(response.body)["error"]
    assert {**said, "message": ""} == {"message": "", "type": INVALID, "param": None, "code": None}
    assert b"secret" not in response.body


def test_allowed_methods():
    """The response to a wrong method lists the right ones."""
    assert error_response(MethodNotAllowedException(headers={"Allow": "POST"})).headers == {"allow": "POST"}


@pytest.mark.parametrize("error", [KeyError("secret"), InternalServerException("secret")])
def test_unforeseen(error):
    """Whatever was not foreseen is one fixed sentence."""
    response = error_response(error)
    assert response.status == 500
    assert response.body == error_response(errors.InternalError()).body
    assert b"secret" not in response.body
