"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any, TypeVar

T = TypeVar("T")

Step = tuple[int, int]


class LoopThread:
    """Runs coroutines for other threads, until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._open = True
        self._process = os.getpid()
        self._entrance = threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name="embedder", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what comes of ``work``; leaving early, by an exception in this thread, cancels it.

        Raises:
            RuntimeError: it is closed, or belongs to the process that this one was forked from.
        """
        return self.run_in_steps(lambda _: work, None)

    def run_in_steps(
        self,
        start: Callable[[Callable[[int, int], None]], Coroutine[Any, Any, T]],
        progress: Callable[[int, int], object] | None,
    ) -> T:
        """Do the same, with ``progress`` called in this thread whenever the work tells of a step."""
        steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        work = start(lambda done, total: steps.put((done, total)))
        if os.getpid() != self._process:
            work.close()
            raise RuntimeError("the embedder belongs to the process that this one was forked from")
        with self._entrance:
            if not self._open:
                work.close()
                raise RuntimeError("the embedder is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.add_done_callback(lambda _: steps.put(None))
        try:
            while (step := steps.get()) is not None:
                if progress is not None:
                    progress(*step)
            return future.result()
        except futures.CancelledError:
            raise RuntimeError("the embedder was closed") from None
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do a last piece of work, cancel all other, and end the thread. Harmless the second time.

        In a process that was forked from this one there is no thread, and nothing to end.
        """
        if os.getpid() != self._process:
            return
        with self._entrance:
            if not self._open:
                return
            self._open = False
        if threading.current_thread() is self._thread:  # garbage is collected in any thread
            threading.Thread(target=self._end, args=(last,)).start()
        else:
            self._end(last)

    def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(_finish(last), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _finish(last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await last()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
