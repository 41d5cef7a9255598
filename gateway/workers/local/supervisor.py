"""Keeps one worker process alive: starts it, passes calls to it, restarts it after a crash, stops it."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial

from msgspec.structs import replace

from embeddings_gateway.backends.base import Batch, ModelInfo, Output, Part
from embeddings_gateway.backends.selftest import TOKENS_MAX as PROBE_TOKENS_MAX
from embeddings_gateway.backends.spec import Spec
from embeddings_gateway.config import ModelConfig
from embeddings_gateway.log import get_logger
from embeddings_gateway.metrics import ModelMetrics
from embeddings_gateway.workers.engine import (
    FINAL,
    HANG_FACTOR,
    EngineResult,
    MakeEngine,
    State,
    Supervised,
    TokenizeResult,
    WorkerGone,
)
from embeddings_gateway.workers.local.breaker import Backoff, Breaker
from embeddings_gateway.workers.local.cores import divide, usable
from embeddings_gateway.workers.local.hang_detector import WorkerTimeouts
from embeddings_gateway.workers.local.launcher import Launcher, LoadCrashed, LoadRefused
from embeddings_gateway.workers.local.link import Link
from embeddings_gateway.workers.local.process import Death
from embeddings_gateway.workers.local.stderr_filter import without_texts

CHARS_PER_S_MIN = 100_000
"""Tokenizers are many times as fast. A tokenizer call may take ``hang_s``, and in addition its texts at this speed."""

log = get_logger()


def local_engines(
    name: str,
    config: ModelConfig,
    metrics: ModelMetrics,
    forward_stderr: Callable[[bytes], object] | None,
) -> list[MakeEngine]:
    """Return a factory for each engine of a model on this machine. The engines divide the cores.

    Args:
        name: of the model.
        config: what the engines load, and how many there are.
        metrics: count restarts and crashes.
        forward_stderr: gets the workers' standard error while they load.
    """
    serving = config.serving
    timeouts = WorkerTimeouts(serving.hang_timeout_s, serving.load_timeout_s)
    make = partial(Supervisor, name, metrics=metrics, timeouts=timeouts, forward_stderr=forward_stderr)
    return [
        partial(make, replace(config.spec, threads=share.threads), cores=share.cores)
        for share in divide(usable(), serving.replicas, config.spec.threads)
    ]


class Supervisor:
    """An ``Engine`` in a worker process on this machine, ``Supervised``. Belongs to one event loop.

    Args:
        model: its name, for the log.
        spec: what the worker loads.
        metrics: count restarts and crashes.
        accepts: whether a worker with a model of these facts may serve.
        on_change: called after every change of ``state``.
        timeouts: how long the worker may take.
        cores: numbers of the cores that the worker is pinned to; empty if it is not pinned.
        forward_stderr: gets the worker's standard error while it loads.
        backoff: the pauses before restarts.

    Attributes:
        info: the model's facts, ``None`` until it was loaded for the first time.
    """

    def __init__(
        self,
        model: str,
        spec: Spec,
        metrics: ModelMetrics,
        *,
        accepts: Callable[[ModelInfo], bool],
        on_change: Callable[[], None],
        timeouts: WorkerTimeouts = WorkerTimeouts(),  # noqa: B008 - frozen
        cores: Collection[int] = (),
        forward_stderr: Callable[[bytes], object] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.info: ModelInfo | None = None
        self._state: State = "loading"
        self._reason = "the model is being loaded"
        self._model = model
        self._log = log.bind(model=model)
        self._launcher = Launcher(spec, cores, forward_stderr, timeouts=timeouts, on_late=self._on_late)
        self._timeouts = timeouts
        self._metrics = metrics
        self._accepts = accepts
        self._on_change = on_change
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._attempted = asyncio.Event()
        self._change = asyncio.Event()
        self._backoff = backoff or Backoff()
        self._breaker = Breaker()
        self._chars = 0  # of all texts in open tokenizer calls: they wait for one another
        self._exclusive_lock = asyncio.Lock()
        self._exclusive_waiters = 0  # those that hold the lock or wait for it
        self._searching = False  # whether the worker's calls belong to a search

    def __repr__(self) -> str:
        return f"<Supervisor {self._model} {self.state}>"

    @property
    def supervised(self) -> Supervised:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        return self

    @property
    def ready(self) -> bool:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        return self._link is not None and not self._link.lost and not self._exclusive_waiters

    @property
    def state(self) -> State:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        if self._state != "ready" or self.ready:
            return self._state
        return "searching" if self._exclusive_waiters else "restarting"

    @property
    def reason(self) -> str:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        if self._state != "ready" or self.ready:
            return self._reason
        if self._exclusive_waiters:
            return "the worker is searching for the input that it failed on"
        return "the worker crashed"

    @property
    def tokens_per_s(self) -> float:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        return self._link.tokens_per_s if self._link else 0.0

    def start(self) -> None:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        self._task = asyncio.get_running_loop().create_task(self._supervise())

    async def first_attempt(self) -> None:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        await self._attempted.wait()

    async def stop(self) -> None:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._set_state("stopped", "the gateway is stopping")

    async def tokenize(
        self, texts: Sequence[str], text_pairs: Sequence[str] | None = None, part: Part | None = None
    ) -> TokenizeResult:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        chars = sum(map(len, texts)) + sum(map(len, text_pairs or ()))
        self._chars += chars
        try:
            timeout_s = self._timeouts.hang_s + self._chars / CHARS_PER_S_MIN
            return await (await self._live_link()).tokenize(texts, text_pairs, part, timeout_s)
        finally:
            self._chars -= chars

    async def run(self, batch: Batch, outputs: Sequence[Output], timeout_s: float) -> EngineResult:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        return await (await self._live_link()).run(batch, outputs, max(timeout_s, self._timeouts.hang_s))

    async def ping(self) -> float:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        if self._link is None:
            raise WorkerGone(self.reason)
        return await self._link.ping()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self._exclusive_waiters += 1
        if self._exclusive_waiters == 1:
            self._on_change()
        try:
            async with self._exclusive_lock:
                if self._link is not None and not self._link.lost:
                    await self._link.idle()
                    self._searching = True
                try:
                    yield
                finally:
                    await self._end_search()
        finally:
            self._exclusive_waiters -= 1
            if not self._exclusive_waiters:
                self._searching = False
                self._on_change()

    async def check(self) -> str:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        link = await self._live_link()
        timeout_s = HANG_FACTOR * PROBE_TOKENS_MAX / max(1, link.tokens_per_s)
        return await link.check(max(timeout_s, self._timeouts.hang_s))

    async def replace(self, reason: str) -> None:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        link = await self._live_link()
        link.kill("replaced", reason)
        await link.ended()

    def exonerate(self, crashes: int) -> None:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self._breaker.exonerate(crashes)

    async def _live_link(self) -> Link:
        """Return the link. During a search, wait for a worker that is restarting.

        Raises:
            WorkerGone: there is no worker, or it is not worth waiting for.
        """
        while self._link is None or self._link.lost:
            hopeless = self._state in FINAL or self._breaker.hopeless or self._launcher.late
            if not self._exclusive_waiters or hopeless:
                raise WorkerGone(self.reason)
            await self._change.wait()
        return self._link

    async def _end_search(self) -> None:
        """Decide which crashes of the search count."""
        while self._state == "ready" and self._link is not None and self._link.lost:
            await self._change.wait()  # until the last crash has been noted
        self._breaker.end_search()
        if self._state == "ready":
            self._breaker.half_open()
        elif self._state == "restarting" and self._breaker.is_open:
            self._set_restarting("the worker crashed")

    async def _supervise(self) -> None:
        """Run one process after the other, until one reports that the model cannot be served."""
        while True:
            try:
                await self._run_process()
            except LoadRefused as error:
                self._log.error("model cannot be served", reason=str(error))
                self._set_state("failed", str(error))
                return
            except Exception:  # a bug of the gateway must not leave a model without supervision
                self._log.exception("supervisor failed")
                self._start_failed("the gateway lost the worker")
            self._metrics.worker_restarts.inc()
            jitter = random.random()  # noqa: S311 - not a secret
            await asyncio.sleep(self._backoff.next_s(jitter))

    async def _run_process(self) -> None:
        """Run one process from its start to its end.

        Raises:
            LoadRefused: the model cannot be served.
        """
        try:
            link = await self._launcher.launch()
        except LoadCrashed as error:
            self._log.error("worker crashed while loading", how=str(error))
            self._metrics.worker_deaths[error.cause].inc()
            self._start_failed("the worker crashed while it loaded the model")
            return
        except LoadRefused as error:
            if self.info is None:
                raise
            # It was served before. What is missing now, such as memory of a device, may come back.
            self._log.error("model cannot be served now", reason=str(error))
            self._start_failed(f"the worker could not load the model this time ({error})")
            return
        try:
            death = await self._serve(link)
        finally:
            await link.close()
        self._note_crash(link, death)

    async def _serve(self, link: Link) -> Death:
        """Take calls until the process ends.

        Raises:
            LoadRefused: the worker does not make the same vectors as before.
        """
        info = link.info
        if not self._accepts(info):
            raise LoadRefused(
                "its embedding space has changed, so its files or its device have changed: "
                "start the gateway again"
            )
        for note in info.notes:
            self._log.warning("model note", note=note)
        self._log.info("model ready", fingerprint=info.fingerprint, seconds=link.load_seconds)
        self.info, self._link = info, link
        self._searching = self._exclusive_waiters > 0
        self._breaker.half_open()
        self._set_state("ready", "")
        return await link.ended()

    def _note_crash(self, link: Link, death: Death) -> None:
        stderr = without_texts(death.stderr, os.path.isfile)
        self._log.error("worker crashed", how=death.how, stderr=stderr)
        self._metrics.worker_deaths[death.cause].inc()
        worked = link.batches > 0
        if worked or self._searching:
            self._backoff.reset()
        if self._searching:
            self._breaker.crash_in_search(time.monotonic())
        else:
            self._breaker.crash(time.monotonic(), worked=worked)
        self._set_restarting(f"the worker crashed ({death.how})")

    def _on_late(self) -> None:
        self._set_state(
            "broken", "the worker is restarting, and takes far longer to load the model than before"
        )

    def _start_failed(self, problem: str) -> None:
        self._breaker.failed_start(time.monotonic())
        self._set_restarting(problem)
        self._attempted.set()

    def _set_restarting(self, problem: str) -> None:
        """Enter the state after a crash or a failed start."""
        if self._breaker.is_open:
            self._set_state(
                "broken", f"{problem}, too often recently; it is restarted and tested before it is used"
            )
        else:
            self._set_state("restarting" if self.info else "loading", f"{problem} and is restarted")

    def _set_state(self, state: State, reason: str) -> None:
        self._state, self._reason = state, reason
        if state != "loading":
            self._attempted.set()
        self._change.set()
        self._change = asyncio.Event()
        self._on_change()
