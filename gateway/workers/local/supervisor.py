"""Keeps one worker process alive: starts it, passes calls to it, restarts it after a crash, stops it."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress

from embeddings_gateway.backends.base import Batch, ModelInfo, Output, Part
from embeddings_gateway.backends.selftest import TOKENS_MAX as PROBE_TOKENS_MAX
from embeddings_gateway.backends.spec import Spec
from embeddings_gateway.log import get_logger
from embeddings_gateway.metrics import ModelMetrics
from embeddings_gateway.workers.engine import (
    FINAL,
    HANG_FACTOR,
    EngineResult,
    Loaded,
    State,
    Supervised,
    TokenizeResult,
    WorkerGone,
)
from embeddings_gateway.workers.local.breaker import Backoff, Breaker
from embeddings_gateway.workers.local.hang_detector import WorkerTimeouts
from embeddings_gateway.workers.local.launcher import Launcher, LoadCrashed, LoadRefused
from embeddings_gateway.workers.local.link import Link
from embeddings_gateway.workers.local.process import Death
from embeddings_gateway.workers.local.search_share import SearchShare
from embeddings_gateway.workers.local.search_turns import SearchTurns
from embeddings_gateway.workers.local.stderr_filter import without_texts

CHARS_PER_S_MIN = 100_000
"""Tokenizers are many times as fast. A tokenizer call may take ``hang_s``, and in addition its texts at this speed."""

TEST_VALID_S = 60.0
"""For so long after the whole self-test one probe is enough."""

log = get_logger()


class Supervisor:
    """An ``Engine`` in a worker process on this machine, ``Supervised``. Belongs to one event loop.

    Args:
        model: its name, for the log.
        spec: what the worker loads.
        metrics: count restarts and crashes.
        accepts: why a worker that has loaded this must not serve; empty if it may.
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
        accepts: Callable[[Loaded], str],
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
        self._turns = SearchTurns()
        self._search_share = SearchShare(time.monotonic())
        self._exclusive = False  # whether a step of a search has the worker, or waits until it is idle
        self._searching = False  # whether the worker's calls belong to a search
        self._crashed_at = 0.0
        self._crash_is_searched = False  # so searches pay for the restart
        self._load_crash = ""  # how the last start failed, if the worker crashed
        self._tested_at = -math.inf

    def __repr__(self) -> str:
        return f"<Supervisor {self._model} {self.state}>"

    @property
    def supervised(self) -> Supervised:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        return self

    @property
    def ready(self) -> bool:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        return self._link is not None and not self._link.lost and not self._exclusive

    @property
    def state(self) -> State:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        if self._state == "ready" and self.ready:
            return "ready"
        if self._state in ("ready", "restarting") and (self._turns.pending or self._crash_is_searched):
            return "searching"
        return "restarting" if self._state == "ready" else self._state

    @property
    def reason(self) -> str:
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        match self.state:
            case "searching":
                return "the worker is searching for the input that it failed on"
            case "restarting" if self._state == "ready":
                return "the worker crashed"
        return self._reason

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
    async def search(self) -> AsyncIterator[None]:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        self._crash_is_searched |= self._link is None or self._link.lost
        async with self._turns.search():
            try:
                yield
            finally:
                self._end_search()

    def rerun(self) -> asyncio.Lock:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        return self._turns.rerun

    @asynccontextmanager
    async def step(self, *, exclusive: bool) -> AsyncIterator[None]:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        await asyncio.sleep(0)  # calls that waited for the step before this one are made first
        link = await self._time_for_a_step()
        async with self._reserved(link) if exclusive else nullcontext():
            began = time.monotonic()
            try:
                yield
            finally:
                self._search_share.charge(time.monotonic() - began, time.monotonic())

    @asynccontextmanager
    async def _reserved(self, link: Link) -> AsyncIterator[None]:
        """Take the engine from others, until the end of the block and until a crash inside has been noted."""
        self._exclusive = True
        self._on_change()
        try:
            await link.idle()
            self._searching = not link.lost
            try:
                yield
            finally:
                while self._state == "ready" and self._link is not None and self._link.lost:
                    await self._change.wait()
        finally:
            self._exclusive = self._searching = False
            self._on_change()

    async def _time_for_a_step(self) -> Link:
        """Wait until there is a worker, and searches may take more of its time.

        Raises:
            WorkerGone: there is no worker, and none is worth waiting for.
        """
        while True:
            wait_s = None
            if self._link is not None and not self._link.lost:
                wait_s = self._search_share.wait_s(time.monotonic())
                if not wait_s:
                    return self._link
            elif self._hopeless:
                raise WorkerGone(self.reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._change.wait()

    async def check(self) -> str:
        """See :class:`embeddings_gateway.workers.engine.Supervised`."""
        link, now = await self._live_link(), time.monotonic()
        brief = now - self._tested_at < TEST_VALID_S
        timeout_s = HANG_FACTOR * PROBE_TOKENS_MAX / max(1, link.tokens_per_s)
        problem = await link.check(max(timeout_s, self._timeouts.hang_s), brief=brief)
        if not brief:
            self._tested_at = now
        return problem

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
            if not self._exclusive or self._hopeless:
                raise WorkerGone(self.reason)
            await self._change.wait()
        return self._link

    @property
    def _hopeless(self) -> bool:
        """Whether a search need not wait for a worker."""
        return self._state in FINAL or self._breaker.hopeless or self._launcher.late

    def _end_search(self) -> None:
        """Decide which crashes of the search count."""
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
            LoadRefused: the model cannot be served, or two workers have crashed on it in the same way.
        """
        try:
            link = await self._launcher.launch()
        except LoadCrashed as error:
            self._log.error("worker crashed while loading", how=str(error))
            self._metrics.worker_deaths[error.cause].inc()
            if error.will_repeat and error.reason == self._load_crash and self.info is None:
                raise LoadRefused(
                    f"its worker crashes whenever it loads the model ({error.reason})"
                ) from None
            self._load_crash = error.reason
            self._start_failed(f"the worker crashed while it loaded the model ({error.reason})")
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
        if problem := self._accepts(link.loaded):
            raise LoadRefused(f"{problem}: start the gateway again")
        info = link.loaded.info
        for note in info.notes:
            self._log.warning("model note", note=note)
        self._log.info("model ready", fingerprint=info.fingerprint, seconds=link.load_seconds)
        now = time.monotonic()
        self._search_share.restart_takes(self._launcher.fastest_s)
        if self._crash_is_searched:
            self._search_share.charge(now - self._crashed_at, now)
        self._crash_is_searched = False
        self.info, self._link, self._tested_at = info, link, now
        self._searching = self._exclusive
        self._breaker.half_open()
        self._set_state("ready", "")
        return await link.ended()

    def _note_crash(self, link: Link, death: Death) -> None:
        stderr = without_texts(death.stderr, os.path.isfile)
        end = "was replaced" if death.cause == "replaced" else "crashed"
        self._log.error(f"worker {end}", how=death.how, stderr=stderr)
        self._metrics.worker_deaths[death.cause].inc()
        self._crashed_at = time.monotonic()
        worked = link.batches > 0
        if worked or self._searching:
            self._backoff.reset()
        if self._searching:
            self._crash_is_searched = True
            self._breaker.crash_in_search(self._crashed_at)
        else:
            self._breaker.crash(self._crashed_at, worked=worked)
        self._set_restarting(f"the worker {end} ({death.how})")

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
