"""The models that are served, by every name they have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, get_args

from embeddings_gateway.config import Config, InputType
from embeddings_gateway.errors import InvalidRequest, ModelNotFound, ModelUnavailable, RetryAfter
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.local import LocalModel
from embeddings_gateway.serving.prepare.cl100k import Cl100k
from embeddings_gateway.serving.served import Served
from embeddings_gateway.workers.local.local_engines import local_engines

INPUT_TYPES: dict[str, InputType] = {name: name for name in get_args(InputType)}


class Named(NamedTuple):
    """What a client's name for a model stands for.

    Attributes:
        served: the model.
        input_type: what its texts are, if the name says so: ``NAME@query`` and ``NAME@document``.
    """

    served: Served
    input_type: InputType | None

    def resolve_input_type(self, requested: InputType | None) -> InputType | None:
        """Return the input type from the request, else from the model name's suffix.

        Raises:
            InvalidRequest: the two disagree.
        """
        if self.input_type is not None and requested not in (None, self.input_type):
            raise InvalidRequest(
                f"The model's name says {self.input_type}, input_type something else.", "input_type"
            )
        return requested or self.input_type


class Registry:
    """All models of a configuration. An async context manager: loading begins on entry, workers end on exit.

    Args:
        config: the models.
        metrics: of the gateway.
        forward_stderr: gets what workers write to their standard error while they load.

    Attributes:
        models: all of them.
        draining: whether the gateway is stopping: it finishes what it has accepted.
    """

    def __init__(
        self, config: Config, metrics: Metrics, forward_stderr: Callable[[bytes], object] | None = None
    ) -> None:
        self.draining = False
        cl100k = Cl100k()
        self.models: list[Served] = [
            LocalModel(
                name,
                model,
                local_engines(name, model, metrics.model(name), forward_stderr),
                metrics.model(name),
                cl100k=cl100k,
                max_request_tokens=config.server.max_request_tokens,
            )
            for name, model in config.models.items()
        ]
        self._by_name = {name: served for served in self.models for name in (served.name, *served.aliases)}

    async def __aenter__(self) -> Registry:
        for served in self.models:
            served.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(served.stop() for served in self.models))

    def refuse_if_draining(self) -> None:
        """Raise ModelUnavailable if the gateway is stopping."""
        if self.draining:
            raise stopping()

    def find(self, name: str) -> Named:
        """Return the model of that name or alias, which may end in an input type.

        Raises:
            ModelNotFound: there is none.
        """
        base, at, suffix = name.rpartition("@")
        input_type = INPUT_TYPES.get(suffix) if at else None
        served = self._by_name.get(base if input_type else name)
        if served is None:
            raise ModelNotFound("There is no model of that name. GET /v1/models lists them.", "model")
        return Named(served, input_type)

    async def first_attempt(self) -> None:
        """Wait until the first attempt to load each model has succeeded or failed."""
        await asyncio.gather(*(served.first_attempt() for served in self.models))


def stopping() -> ModelUnavailable:
    """Return the error of a request that comes while the gateway is stopping."""
    return ModelUnavailable("The gateway is stopping.", None, RetryAfter.STOPPING)
