"""Models in an application that has no event loop, or many threads."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from embeddings_gateway.config import Config, InputType, Truncate
from embeddings_gateway.library.async_embedder import AsyncEmbedder, Source, list_of
from embeddings_gateway.library.embeddings import Embeddings
from embeddings_gateway.library.loop_thread import LoopThread
from embeddings_gateway.library.many import Progress


class Embedder:
    """Embeds texts with the models of a configuration, in worker processes of their own.

    Models begin to load when it is made, and their workers end with :meth:`close`, at the end of a ``with``
    block, or with the interpreter. Any number of threads may use it at once; their texts share batches. ::

        with Embedder() as embedder:
            vectors = embedder.embed(["some text", "another one"]).vectors

    It is an :class:`AsyncEmbedder` whose event loop runs in a thread of its own; see there for arguments and
    errors. A call that is still waiting when it is closed raises ``RuntimeError``.
    """

    def __init__(self, config: Source = None) -> None:
        self._embedder = AsyncEmbedder(config)
        self._thread = LoopThread()
        self._thread.run(self._embedder.__aenter__())
        self._close = weakref.finalize(self, self._thread.close, self._embedder.close)

    def __repr__(self) -> str:
        return repr(self._embedder).replace("AsyncEmbedder", "Embedder")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def config(self) -> Config:
        """What it was made from."""
        return self._embedder.config

    def warm_up(self, model: str | None = None) -> None:
        """See :meth:`AsyncEmbedder.warm_up`."""
        self._thread.run(self._embedder.warm_up(model))

    def embed(
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
        """See :meth:`AsyncEmbedder.embed`. ``texts`` and ``progress`` are used in the calling thread."""
        inputs = list_of(texts)
        return self._thread.run_in_steps(
            lambda step: self._embedder.embed(
                inputs,
                model=model,
                dimensions=dimensions,
                truncate=truncate,
                input_type=input_type,
                partial=partial,
                progress=step,
            ),
            progress,
        )

    def close(self) -> None:
        """End the workers. Harmless the second time."""
        self._close()
