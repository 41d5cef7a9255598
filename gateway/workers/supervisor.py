"""Keeps one worker process alive: starts it, hands calls to it, starts it again when it dies, ends it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from embeddings_gateway.backends.base import ModelInfo, TokenIds
from embeddings_gateway.backends.selftest import TOKENS_MAX as PROBE_TOKENS_MAX
from embeddings_gateway.backends.spec import Spec
from embeddings_gateway.log import get_logger
from embeddings_gateway.metrics import ModelMetrics
from embeddings_gateway.workers.backoff import Backoff
from embeddings_gateway.workers.breaker import Breaker
from embeddings_gateway.workers.connection import Connection
from embeddings_gateway.workers.last_words import without_texts
from embeddings_gateway.workers.loading import DiedLoading, LoadRefused, Starts
from embeddings_gateway.workers.process import Death
from embeddings_gateway.workers.vigil import HANG_FACTOR, Patience
from embeddings_gateway.workers.worker import OVER, State, Timed, WorkerLost

CHARS_PER_S_MIN = 100_000
"""A tokenizer is many times as fast; what it takes beyond ``hang_s`` is granted at this speed."""

log = get_logger()


class Supervisor:
    """A worker on this machine, as ``Worker``. Belongs to one event loop.

    Args:
        model: its name, for people.
        spec: what the worker loads.
        metrics: where restarts are counted.
        accepts: whether a worker that loaded this may serve.
        changed: is called after every change of ``state``.
        patience: how long the worker may take for what.
        cores: the numbers of those that it is pinned to, every time that it is started; none if it is not.
        echo: is given what the worker writes to its standard error.

    Attributes:
        info: the facts of the model, ``None`` until it was loaded for the first time.
    """

    def __init__(
        self,
        model: str,
        spec: Spec,
        metrics: ModelMetrics,
        *,
        accepts: Callable[[ModelInfo], bool],
        changed: Callable[[], None],
        patience: Patience = Patience(),  # noqa: B008 - frozen
        cores: Collection[int] = (),
        echo: Callable[[bytes], object] | None = None,
    ) -> None:
        self.info: ModelInfo | None = None
        self._state: State = "loading"
        self._reason = "the model is being loaded"
        self._model = model
        self._starts = Starts(spec, cores, echo, patience=patience, tell_late=self._late)
        self._patience = patience
        self._metrics = metrics
        self._accepts = accepts
        self._changed = changed
        self._connection: Connection | None = None
        self._running: asyncio.Task[None] | None = None
        self._attempted = asyncio.Event()
        self._change = asyncio.Event()
        self._backoff = Backoff()
        self._breaker = Breaker()
        self._chars = 0  # of all texts that are being tokenized: they wait for one another
        self._taking_turns = asyncio.Lock()
        self._loners = 0
        self._searched = False  # whether what the worker does now is done to find out what kills it

    def __repr__(self) -> str:
        return f"<Supervisor {self._model} {self.state}>"

    @property
    def ready(self) -> bool:
        """Whether it takes a call now."""
        return self._connection is not None and not self._connection.lost and not self._loners

    @property
    def state(self) -> State:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        if self._state != "ready" or self.ready:
            return self._state
        return "searching" if self._loners else "restarting"

    @property
    def reason(self) -> str:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        if self._state != "ready" or self.ready:
            return self._reason
        return "its worker looks for the input that it has failed on" if self._loners else "the worker died"

    @property
    def tokens_per_s(self) -> float:
        """How fast it was in its self-test; 0 before."""
        return self._connection.tokens_per_s if self._connection else 0.0

    @property
    def calls(self) -> int:
        """How many calls it has not answered yet."""
        return self._connection.calls if self._connection else 0

    def start(self) -> None:
        """Begin to load the model; :attr:`state` tells how it goes."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def attempted(self) -> None:
        """Wait until the first attempt to load the model has ended, well or badly."""
        await self._attempted.wait()

    async def stop(self) -> None:
        """End the worker and do not start it again."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        self._to("stopped", "the gateway is stopping")

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        self._loners += 1
        if self._loners == 1:
            self._changed()
        try:
            async with self._taking_turns:
                if self._connection is not None and not self._connection.lost:
                    await self._connection.answered()
                    self._searched = True
                try:
                    yield
                finally:
                    await self._judge()
        finally:
            self._loners -= 1
            if not self._loners:
                self._searched = False
                self._changed()

    async def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        chars = sum(map(len, texts))
        self._chars += chars
        try:
            seconds_max = self._patience.hang_s + self._chars / CHARS_PER_S_MIN
            return await (await self._live()).tokenize(texts, seconds_max)
        finally:
            self._chars -= chars

    async def embed(self, batch: Sequence[TokenIds], seconds_max: float) -> Timed:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        return await (await self._live()).embed(batch, max(seconds_max, self._patience.hang_s))

    async def check(self) -> str:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        connection = await self._live()
        seconds_max = HANG_FACTOR * PROBE_TOKENS_MAX / max(1, connection.tokens_per_s)
        return await connection.check(max(seconds_max, self._patience.hang_s))

    def explained(self, deaths: int) -> None:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        self._breaker.explain(deaths)

    async def replace(self, reason: str) -> None:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        connection = await self._live()
        connection.condemn("replaced", reason)
        await connection.ended()

    async def ping(self) -> float:
        """See :class:`embeddings_gateway.workers.worker.Worker`."""
        if self._connection is None:
            raise WorkerLost
        return await self._connection.ping()

    async def _live(self) -> Connection:
        """Return the connection; who has the worker to himself waits for it while it is started again.

        Raises:
            WorkerLost: there is none, or none to be expected.
        """
        while self._connection is None or self._connection.lost:
            if not self._loners or self._state in OVER or self._breaker.hopeless or self._starts.late:
                raise WorkerLost(self.reason)
            await self._change.wait()
        return self._connection

    async def _judge(self) -> None:
        """Judge the deaths of a search that is over."""
        while self._state == "ready" and self._connection is not None and self._connection.lost:
            await self._change.wait()  # until the last one is known
        self._breaker.judge()
        if self._state == "ready":
            self._breaker.probed()
        elif self._state == "restarting" and self._breaker.open:
            self._died("the worker died")

    async def _run(self) -> None:
        """Load, serve, die, and again, until the model turns out not to be servable."""
        while True:
            try:
                await self._live_once()
            except LoadRefused as error:
                log.error("model refused", model=self._model, reason=str(error))
                self._to("failed", str(error))
                return
            except Exception:  # a mistake of ours, which must not leave a model that nobody supervises
                log.exception("supervisor failed", model=self._model)
                self._failed_to_start("the worker was lost")
            self._metrics.worker_restarts.inc()
            await asyncio.sleep(self._backoff.pause())

    async def _live_once(self) -> None:
        """Run one process from birth to death.

        Raises:
            LoadRefused: the model cannot be served.
        """
        try:
            connection = await self._starts.connect()
        except DiedLoading as error:
            log.error("worker died while loading", model=self._model, how=str(error))
            self._metrics.worker_deaths[error.cause].inc()
            self._failed_to_start("the worker died while it loaded the model")
            return
        except LoadRefused as error:
            if self.info is None:
                raise
            # It was served before, and what it lacks may be there again: room on a device, for instance.
            log.error("worker refused the model", model=self._model, reason=str(error))
            self._failed_to_start(f"the worker refused the model this time ({error})")
            return
        try:
            death = await self._serve(connection)
        finally:
            await connection.close()
        log.error(
            "worker died", model=self._model, how=death.how, said=without_texts(death.said, os.path.isfile)
        )
        self._metrics.worker_deaths[death.cause].inc()
        if connection.batches or self._searched:
            self._backoff.fruitful()
        if self._searched:
            self._breaker.suspect(time.monotonic())
        else:
            self._breaker.death(time.monotonic(), fruitful=connection.batches > 0)
        self._died(f"the worker died ({death.how})")

    def _late(self) -> None:
        self._to("broken", "the worker was started again, and takes far longer to load the model than before")

    async def _serve(self, connection: Connection) -> Death:
        info = connection.info
        if not self._accepts(info):
            raise LoadRefused(
                "it makes another embedding space than before, so its files or its device have changed: "
                "start the gateway again"
            )
        for note in info.notes:
            log.warning("model note", model=self._model, note=note)
        log.info("model ready", model=self._model, space=info.fingerprint, seconds=connection.load_seconds)
        self.info, self._connection = info, connection
        self._searched = self._loners > 0
        self._breaker.probed()
        self._to("ready", "")
        return await connection.ended()

    def _failed_to_start(self, how: str) -> None:
        """Tell how the worker is after a start that came to nothing."""
        self._breaker.failed_start(time.monotonic())
        self._died(how)
        self._attempted.set()

    def _died(self, how: str) -> None:
        """Tell how the worker is after a death."""
        if self._breaker.open:
            self._to("broken", f"{how}, too often of late; it is started again and tested before it is used")
        else:
            self._to("restarting" if self.info else "loading", f"{how} and is started again")

    def _to(self, state: State, reason: str) -> None:
        self._state, self._reason = state, reason
        if state != "loading":
            self._attempted.set()
        self._change.set()
        self._change = asyncio.Event()
        self._changed()
