"""All errors that a client can cause or meet, as one tree. ``api.errors`` has the HTTP status of each."""

from __future__ import annotations

import copy
from typing import Self


class RetryAfter:
    """Values of Retry-After, in seconds, where no measured speed gives a better one; ``MAX`` bounds those too."""

    WORKER_GONE = CONNECTIONS = 1
    LOADING = STOPPING = SEARCH_ABORTED = 5
    VOCABULARY = 10
    FAILED = MAX = 60


class GatewayError(Exception):
    """Root of the tree.

    Attributes:
        message: one sentence for the client.
        param: the field of the request that the error is about, such as ``input[17]``.
        retry_after: seconds after which a retry may help, if known.
        of_the_input: whether a single input may be at fault. Only then can a partial response leave it out.
    """

    of_the_input = False

    def __init__(self, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def __copy__(self) -> Self:
        """Return the same error without calling ``__init__``, whose arguments differ among the classes."""
        error = type(self).__new__(type(self), *self.args)
        error.__dict__.update(self.__dict__)
        return error

    def about(self, param: str) -> Self:
        """Return the same error about the field ``param``."""
        error = copy.copy(self)
        error.param = param
        return error


class InvalidRequest(GatewayError):
    """A field is missing, of the wrong type or out of range."""

    of_the_input = True


class InvalidJson(InvalidRequest):
    """The body is not one JSON document in UTF-8."""


class ContextLengthExceeded(InvalidRequest):
    """An input is too long for the model, and must not be cut."""


class TooManyTokens(InvalidRequest):
    """A request has too many tokens."""


class InvalidTokenIds(InvalidRequest):
    """Token ids are outside the vocabulary, or the model's setting refuses them."""


class ModelNotFound(GatewayError):
    """There is no model or alias of that name."""


class SpaceMismatch(GatewayError):
    """The client expects another embedding space than the model has."""


class BodyTooLarge(GatewayError):
    """The body is too large."""


class BodyTimeout(GatewayError):
    """The body was not received in time."""


class WrongContentType(GatewayError):
    """The body is not declared as plain application/json."""


class NotHttp(GatewayError):
    """The request is not valid HTTP/1.1."""


class HeadTooLarge(GatewayError):
    """The request line and the headers are too large."""


class HeadTimeout(GatewayError):
    """The request line and the headers were not received in time."""


class Overloaded(GatewayError):
    """The model's queue or the gateway has no room for the request."""


class InputFailed(GatewayError):
    """The model fails on this input, and would fail again."""

    of_the_input = True


class DeadlinePassed(GatewayError):
    """The request was not answered in time."""

    def __init__(self, message: str = "The request was not done in time.") -> None:
        super().__init__(message)


class ModelUnavailable(GatewayError):
    """The model is loading, has failed, or is stopping."""


class ClientGone(Exception):
    """The client disconnected. Not a GatewayError, because nobody reads a response."""


class InternalError(GatewayError):
    """An unexpected error. The traceback is in the log, and the client reads a fixed sentence."""

    def __init__(self) -> None:
        super().__init__("The gateway failed in a way it should not. The request id leads to its log.")
