"""The library for applications without an event loop, or with many threads."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from concurrent import futures
from types import TracebackType
from typing import Any, Self, TypeVar

from embeddings_gateway.config import Config, InputType, Truncate
from embeddings_gateway.library.async_embedder import AsyncEmbedder, Source, list_of
from embeddings_gateway.library.embeddings import Embeddings
from embeddings_gateway.library.many import Progress

T = TypeVar("T")
Steps = queue.SimpleQueue[tuple[int, int] | None]
"""Numbers of texts that are done, and of all; ``None`` ends it."""


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
