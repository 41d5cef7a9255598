"""Models in an application: :class:`AsyncEmbedder` for one with an event loop, :class:`Embedder` for all others."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from embeddings_gateway.allowed_values import explain_value
from embeddings_gateway.config import Config, InputType, Truncate
from embeddings_gateway.config_file import find_config, log_renamed, parse, read_config
from embeddings_gateway.errors import ModelUnavailable
from embeddings_gateway.library.embeddings import Embeddings
from embeddings_gateway.library.many import Progress, embed_many
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Named, Registry
from embeddings_gateway.serving.served import Call, CallOptions, InputLimits

T = TypeVar("T")
Steps = queue.SimpleQueue[tuple[int, int] | None]
"""Numbers of texts that are done, and of all; ``None`` ends it."""

Source = Config | Mapping[str, Any] | Path | str | None
"""A configuration, a mapping with the keys of its file, or the file's path. ``None`` is the file that the command
line uses: ``EMBEDDINGS_GATEWAY_CONFIG``, else ``gateway.toml`` in the working directory, else the default."""

WARM_UP = ["word " * words for words in (1, 3, 8, 20, 50, 120) for _ in range(16)]


class AsyncEmbedder:
    """Embeds texts with the models of a configuration, in worker processes of their own.

    An async context manager: models begin to load on entry, and their workers end on exit. It belongs to the
    event loop that it was entered in. Any number of tasks there may use it at once. ::

        async with AsyncEmbedder() as embedder:
            vectors = (await embedder.embed(["some text", "more text"])).vectors

    Args:
        config: the models; see :data:`Source`. Of ``[server]``, only the limits on an input and on the tokens of
            a request apply.
        forward_stderr: is called with the output of workers, such as the progress of a download.

    Raises:
        ConfigError: the configuration cannot be used.
    """

    def __init__(
        self, config: Source = None, *, forward_stderr: Callable[[bytes], object] | None = None
    ) -> None:
        self.config = config_of(config)
        log_renamed(self.config)
        server = self.config.server
        self._limits = InputLimits(server.max_input_chars, server.max_input_ids)
        self._registry = Registry(self.config, Metrics(), forward_stderr)
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
        """End the workers. Calls in progress fail."""
        self._open = False
        await self._registry.__aexit__(None, None, None)

    async def warm_up(self, model: str | None = None) -> None:
        """Wait until a model (or each model) is loaded, and embed texts of several lengths once.

        Raises:
            ModelUnavailable: a model cannot be loaded; the message says why.
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
        """Embed any number of texts.

        Args:
            texts: the texts.
            model: a name or alias, which may end in ``@query`` or ``@document``; ``None`` is the only model.
            dimensions: one of the sizes that the model offers; ``None`` is its default, mostly its full size.
            truncate: what happens to a text that is too long: ``error``, ``right``, ``left`` or ``mean``;
                ``None`` is the model's setting.
            input_type: ``query`` or ``document``, for models with prompts.
            partial: whether a text may fail without failing the call.
            progress: is called with the numbers of texts that are done, and of all; for the first time before
                the model is loaded.

        Raises:
            GatewayError: a text cannot be embedded, and ``partial`` is false; ``param`` names it, as
                ``input[17]``. Or the model is unknown (:class:`ModelNotFound`), does not load, or is
                unavailable for more than two minutes (:class:`ModelUnavailable`).
            RuntimeError: the embedder is closed or belongs to another event loop.
            TypeError: ``texts`` is a single string, or an item is not a string.
            ValueError: ``model`` is missing and there are several, or another argument has no allowed value.
        """
        inputs = list_of(texts)
        for name, value, kind in (("truncate", truncate, Truncate), ("input_type", input_type, InputType)):
            if value is not None and (problem := explain_value(value, kind, name)):
                raise ValueError(problem)
        named = self._named(model)
        options = CallOptions(dimensions, truncate, named.resolve_input_type(input_type), partial)
        if progress is not None:
            progress(0, len(inputs))
        try:
            return await embed_many(named.served, Call(inputs, options=options), self._limits, progress)
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


def config_of(source: Source) -> Config:
    """Return the configuration from any kind of source.

    Raises:
        ConfigError: it cannot be read or used.
    """
    match source:
        case Config():
            return source
        case Mapping():
            return parse(source, Path(), "the given configuration")
        case None:
            return read_config(find_config())
        case _:
            return read_config(Path(source))


def list_of(texts: Iterable[str]) -> list[str]:
    """Return texts as a list of plain strings.

    Raises:
        TypeError: ``texts`` is a single string, or an item is not a string.
    """
    if isinstance(texts, str):
        raise TypeError("texts is one string; put it into a list")
    inputs = list(texts)
    for index, text in enumerate(inputs):
        if not isinstance(text, str):
            raise TypeError(f"text {index} is of type {type(text).__name__}, not str")
        if type(text) is not str:  # such as numpy's
            inputs[index] = str(text)
    return inputs


class Embedder:
    """Embeds texts with the models of a configuration, in worker processes of their own.

    Models begin to load at once. Their workers end with :meth:`close`, at the end of a ``with`` block, or with
    the interpreter. Any number of threads may use it at once; their texts share batches. ::

        with Embedder() as embedder:
            vectors = embedder.embed(["some text", "more text"]).vectors

    It is an :class:`AsyncEmbedder` whose event loop runs in a thread of its own; see there for arguments and
    errors. A call that is still waiting when the embedder is closed raises ``RuntimeError``.
    """

    def __init__(self, config: Source = None) -> None:
        self._embedder = AsyncEmbedder(config)
        self._thread = _LoopThread()
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
        """The configuration."""
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
        steps: Steps = queue.SimpleQueue()
        work = self._embedder.embed(
            list_of(texts),
            model=model,
            dimensions=dimensions,
            truncate=truncate,
            input_type=input_type,
            partial=partial,
            progress=lambda done, total: steps.put((done, total)),
        )
        return self._thread.run(work, steps, progress)

    def close(self) -> None:
        """End the workers. Calling it again does nothing."""
        self._close()


class _LoopThread:
    """An event loop in a thread of its own; runs coroutines for other threads until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._open = True
        self._process = os.getpid()
        self._lock = threading.Lock()  # of ``_open``: no work is submitted after the loop was closed
        self._thread = threading.Thread(target=self._loop.run_forever, name="embedder", daemon=True)
        self._thread.start()

    def run(
        self, work: Coroutine[Any, Any, T], steps: Steps | None = None, progress: Progress | None = None
    ) -> T:
        """Return the result of ``work``. An exception in the calling thread, such as Ctrl-C, cancels it.

        Args:
            work: runs in the loop's thread.
            steps: where ``work`` reports its progress.
            progress: is called with each step, in the calling thread.

        Raises:
            RuntimeError: the thread is closed, or belongs to the process that this one was forked from.
        """
        reports: Steps = steps or queue.SimpleQueue()
        future = self._submit(work)
        future.add_done_callback(lambda _: reports.put(None))
        try:
            while (step := reports.get()) is not None:
                if progress is not None:
                    progress(*step)
            return future.result()
        except futures.CancelledError:
            raise RuntimeError("the embedder was closed") from None
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``last``, cancel all other work, and end the thread. Calling it again does nothing.

        In a process that was forked from this one there is no thread to end.
        """
        if os.getpid() != self._process:
            return
        with self._lock:
            if not self._open:
                return
            self._open = False
        if threading.current_thread() is self._thread:  # the garbage collector runs in any thread
            threading.Thread(target=self._end, args=(last,)).start()
        else:
            self._end(last)

    def _submit(self, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
        problem = "the embedder belongs to the process that this one was forked from"
        if os.getpid() == self._process:
            with self._lock:
                if self._open:
                    return asyncio.run_coroutine_threadsafe(work, self._loop)
            problem = "the embedder is closed"
        work.close()
        raise RuntimeError(problem)

    def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(_finish(last), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _finish(last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await last()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
