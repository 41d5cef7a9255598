"""The models that are served, by every name they have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, get_args

from embeddings_gateway.config import Config, InputType
from embeddings_gateway.errors import InvalidRequest, ModelNotFound, ModelUnavailable
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.cl100k import Cl100k
from embeddings_gateway.serving.model import Model

RETRY_STOPPED_S = 5
ROLES: tuple[InputType, ...] = get_args(InputType)


class Named(NamedTuple):
    """What a client's name for a model stands for.

    Attributes:
        model: the model.
        role: what its texts are, where the name says it: ``NAME@query`` and ``NAME@document``.
    """

    model: Model
    role: InputType | None

    def role_of(self, asked: InputType | None) -> InputType | None:
        """Return what the texts of a request are that says so itself, or leaves it to the name.

        Raises:
            InvalidRequest: the two disagree.
        """
        if self.role is not None and asked not in (None, self.role):
            raise InvalidRequest(
                f"The model's name says {self.role}, input_type something else.", "input_type"
            )
        return asked or self.role


class Registry:
    """All models of a configuration. An async context manager: loading begins on entry, workers end on exit.

    Args:
        config: the models.
        metrics: where they count.
        echo: is given what workers write to their standard error.

    Attributes:
        models: all of them.
        draining: whether the gateway is stopping, and finishes what it has accepted.
    """

    def __init__(
        self, config: Config, metrics: Metrics, echo: Callable[[bytes], object] | None = None
    ) -> None:
        self.draining = False
        cl100k = Cl100k()
        self.models = [
            Model(
                name,
                model,
                metrics.model(name),
                cl100k=cl100k,
                max_request_tokens=config.server.max_request_tokens,
                echo=echo,
            )
            for name, model in config.models.items()
        ]
        self._by_name = {
            name: model for model in self.models for name in (model.name, *model.config.serving.aliases)
        }

    async def __aenter__(self) -> Registry:
        for model in self.models:
            model.replicas.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(model.replicas.stop() for model in self.models))

    def admit(self) -> None:
        """Let a request in.

        Raises:
            ModelUnavailable: the gateway is stopping.
        """
        if self.draining:
            raise stopping()

    def __getitem__(self, name: str) -> Model:
        """Return the model of that name or alias.

        Raises:
            ModelNotFound: there is none; never another one instead.
        """
        model = self._by_name.get(name)
        if model is None:
            raise ModelNotFound("There is no model of that name. GET /v1/models lists them.", "model")
        return model

    def find(self, name: str) -> Named:
        """Return the model of that name or alias, which may end in a role.

        Raises:
            ModelNotFound: there is none; never another one instead.
        """
        for role in ROLES:
            if name.endswith(f"@{role}"):
                return Named(self[name.removesuffix(f"@{role}")], role)
        return Named(self[name], None)

    async def attempted(self) -> None:
        """Wait until the first attempt to load each model has ended, well or badly."""
        await asyncio.gather(*(model.replicas.attempted() for model in self.models))


def stopping() -> ModelUnavailable:
    """Return what a request is told when the gateway is stopping."""
    return ModelUnavailable("The gateway is stopping.", None, RETRY_STOPPED_S)
