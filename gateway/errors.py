"""Everything that can go wrong for a client, as one tree. What each is over HTTP stands in ``api.errors``.

::

    GatewayError
    |-- InvalidRequest            a field is missing, of the wrong type or out of range
    |   |-- InvalidJson           the body is not one JSON document
    |   |-- ContextLengthExceeded an input is longer than the model takes
    |   |-- TooManyTokens         the inputs of one request are too long together
    |   `-- InvalidTokenIds       ids outside the vocabulary, or ids that the model's policy refuses
    |-- ModelNotFound             no model or alias of that name
    |-- SpaceMismatch             the client pinned another embedding space
    |-- BodyTooLarge, BodyTimeout, WrongContentType
    |-- NotHttp, HeadTooLarge, HeadTimeout  what came cannot be read as a request
    |-- Overloaded                the model's queue is full, or the gateway's memory for requests
    |-- InputFailed               the model fails on this input
    |-- DeadlinePassed            not done in time
    |-- ModelUnavailable          loading, failed or stopping
    `-- InternalError             anything unforeseen; says a fixed sentence

A message is written for the client and never contains a text of a user.
"""

from __future__ import annotations

import copy
from typing import Self


class GatewayError(Exception):
    """Root of the tree.

    Attributes:
        message: one sentence for the client.
        param: the request field that it is about, such as ``input[17]``.
        retry_after: seconds after which trying again is worth while, where that is known.
        of_the_input: whether it may be the fault of one input, which would fail again: only then can the
            others be answered without it.
    """

    of_the_input = False

    def __init__(self, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def __copy__(self) -> Self:
        """Return the same error, whatever it is made of."""
        found = type(self).__new__(type(self), *self.args)
        found.__dict__.update(self.__dict__)
        return found

    def about(self, param: str) -> Self:
        """Return the same error, about this field: one that was found before its place was known."""
        found = copy.copy(self)
        found.param = param
        return found


class InvalidRequest(GatewayError):
    """A field is missing, of the wrong type or out of range."""

    of_the_input = True


class InvalidJson(InvalidRequest):
    """The body is not one JSON document in UTF-8."""


class ContextLengthExceeded(InvalidRequest):
    """An input is longer than the model takes, and is not to be cut."""


class TooManyTokens(InvalidRequest):
    """The inputs of one request have more tokens than a request may have."""


class InvalidTokenIds(InvalidRequest):
    """Token ids outside the vocabulary, or ids that the model's policy refuses."""


class ModelNotFound(GatewayError):
    """No model or alias of that name."""


class SpaceMismatch(GatewayError):
    """The client pinned an embedding space that the model does not have."""


class BodyTooLarge(GatewayError):
    """The body is larger than a request may be."""


class BodyTimeout(GatewayError):
    """The body was not received in time."""


class WrongContentType(GatewayError):
    """The body is not declared as application/json."""


class NotHttp(GatewayError):
    """What was sent is not HTTP/1.1."""


class HeadTooLarge(GatewayError):
    """The request line and the headers are larger than they may be."""


class HeadTimeout(GatewayError):
    """The request line and the headers were not received in time."""


class Overloaded(GatewayError):
    """The model's queue cannot take the request, or the gateway has too many at once."""


class InputFailed(GatewayError):
    """The model fails on this input, and would again."""

    of_the_input = True


class DeadlinePassed(GatewayError):
    """The request was not done in time."""

    def __init__(self, message: str = "The request was not done in time.") -> None:
        super().__init__(message)


class ModelUnavailable(GatewayError):
    """The model is loading, has failed, or is stopping."""


class ClientGone(Exception):
    """The client went away: there is nobody to tell anything. Not a GatewayError."""


class InternalError(GatewayError):
    """Anything unforeseen. The trace is in the log, the client reads a fixed sentence."""

    def __init__(self) -> None:
        super().__init__("The gateway failed in a way it should not. The request id leads to its log.")
