"""Models in an application with an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from embeddings_gateway.allowed_values import explain_value
from embeddings_gateway.config import Config, InputType, Truncate
from embeddings_gateway.config_file import find_config, log_renamed, parse, read_config
from embeddings_gateway.errors import ModelUnavailable
from embeddings_gateway.library.embeddings import Embeddings
from embeddings_gateway.library.many import Progress, embed_many, unavailable
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.ask import Ask, InputLimits
from embeddings_gateway.serving.model import Model
from embeddings_gateway.serving.registry import Named, Registry

Source = Config | Mapping[str, Any] | Path | str | None
"""A configuration, what its file would say as plain data, or where that file is. ``None`` is where the
command line looks: ``EMBEDDINGS_GATEWAY_CONFIG``, ``gateway.toml`` in the working directory, the default."""

WARM_UP = ["word " * words for words in (1, 3, 8, 20, 50, 120) for _ in range(16)]


class AsyncEmbedder:
    """Embeds texts with the models of a configuration, in worker processes of their own.

    An async context manager: the models begin to load on entry, and their workers end on exit. Belongs to the
    event loop that it was entered in, where any number of tasks may use it at once. ::

        async with AsyncEmbedder() as embedder:
            vectors = (await embedder.embed(["some text", "another one"])).vectors

    Args:
        config: the models; see :data:`Source`. Nothing of ``[server]`` is used but its bounds on an input and
            on the tokens of a request.

    Raises:
        ConfigError: the configuration cannot be used.
    """

    def __init__(self, config: Source = None) -> None:
        self.config = config_of(config)
        log_renamed(self.config)
        server = self.config.server
        self._limits = InputLimits(server.max_input_chars, server.max_input_ids)
        self._registry = Registry(self.config, Metrics())
        self._open = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<{type(self).__name__} of {', '.join(self.config.models)}, {state}>"

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("an embedder can be entered once")
        self._open, self._loop = True, asyncio.get_running_loop()
        await self._registry.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the workers. What is being embedded fails."""
        self._open = False
        await self._registry.__aexit__(None, None, None)

    async def warm_up(self, model: str | None = None) -> None:
        """Wait until a model is loaded, or all are, and have it compute texts of several lengths once.

        Raises:
            ModelUnavailable: it cannot be loaded; the message says why.
        """
        for name in self.config.models if model is None else [model]:
            await self.embed(WARM_UP, model=name, truncate="right")

    async def embed(
        self,
        texts: Iterable[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate | None = None,
        input_type: InputType | None = None,
        partial: bool = False,
        progress: Progress | None = None,
    ) -> Embeddings:
        """Embed texts, as many as you like.

        Args:
            texts: in any number.
            model: its name or alias, with ``@query`` or ``@document`` or without; ``None`` is the only one.
            dimensions: one of the sizes that the model offers; ``None`` is all.
            truncate: what happens to a text that is too long (``error``, ``right``, ``left``, ``mean``);
                ``None`` is as configured.
            input_type: ``query`` or ``document``, for models that have words for that.
            partial: whether a text may fail without failing the others.
            progress: is told how many texts are done, and how many there are; at first, before the model is
                loaded, that none is.

        Raises:
            GatewayError: a text cannot be embedded, and ``partial`` is false; ``param`` says which, as
                ``input[17]``. Or the model is not there (:class:`ModelNotFound`), does not load, or is away
                for more than two minutes (:class:`ModelUnavailable`).
            RuntimeError: the embedder is closed, or was meanwhile, or belongs to another event loop.
            TypeError: ``texts`` is one string, or holds what is none.
            ValueError: there are several models, and none is named; or a word is none of those above.
        """
        inputs = list_of(texts)
        refuse_unknown(truncate, Truncate, "truncate")
        refuse_unknown(input_type, InputType, "input_type")
        named = self._named(model)
        role = named.role_of(input_type)
        if progress is not None:
            progress(0, len(inputs))
        try:
            await loaded(named.model)
            ask = Ask(inputs, dimensions, truncate, role, partial)
            return await embed_many(named.model, ask, self._limits, progress)
        except ModelUnavailable:
            if not self._open:
                raise RuntimeError("the embedder was closed") from None
            raise

    def _named(self, name: str | None) -> Named:
        if not self._open:
            raise RuntimeError("the embedder is closed")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the embedder belongs to another event loop")
        if name is not None:
            return self._registry.find(name)
        if len(self.config.models) > 1:
            raise ValueError(f"model is one of {', '.join(self.config.models)}")
        return Named(self._registry.models[0], None)


async def loaded(model: Model) -> None:
    """Wait until a model is loaded.

    Raises:
        ModelUnavailable: it cannot be; the message says why.
    """
    await model.replicas.attempted()
    if model.replicas.info is None:
        raise unavailable(model, ModelUnavailable("The model is not loaded."))


def config_of(source: Source) -> Config:
    """Return a configuration.

    Raises:
        ConfigError: it cannot be read or used.
    """
    match source:
        case Config():
            return source
        case Mapping():
            return parse(source, Path.cwd(), "the given configuration")
        case None:
            return read_config(find_config())
        case _:
            return read_config(Path(source))


def refuse_unknown(word: str | None, words: object, name: str) -> None:
    """Raise ValueError, with the allowed words, if a word is not in a ``Literal``."""
    if word is not None and (problem := explain_value(word, words, name)):
        raise ValueError(problem)


def list_of(texts: Iterable[str]) -> list[str]:
    """Return texts as a list.

    Raises:
        TypeError: there is one string, or something is none.
    """
    if isinstance(texts, str):
        raise TypeError("texts is one string; put it into a list")
    found = list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"text {index} is of type {type(text).__name__}, not str")
        if type(text) is not str:  # numpy's, for instance
            found[index] = str(text)
    return found
