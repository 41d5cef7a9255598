"""Keeps one worker process alive: starts it, hands calls to it, starts it again when it dies, ends it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence

import structlog

from backends.base import ModelInfo, TokenIds
from backends.spec import Spec
from gateway.metrics import ModelMetrics
from gateway.workers.connection import Connection, LoadRefused, connect
from gateway.workers.worker import State, Timed, WorkerLost

BACKOFF_S_MIN = 0.25
BACKOFF_S_MAX = 30.0
STEADY_S = 60.0

log = structlog.get_logger()


class Supervisor:
    """A worker on this machine, as :class:`gateway.workers.worker.Worker`. Belongs to one event loop.

    Args:
        model: its name, for people.
        spec: what the worker loads.
        metrics: where restarts are counted.
        accepts: whether a worker that loaded this may serve.
        changed: is called after every change of ``state``.
        cores: the numbers of those that it is pinned to, every time that it is started; none if it is not.
        echo: is given what the worker writes to its standard error.

    Attributes:
        state: ``loading`` until the model is loaded and again after a death, ``ready``, ``failed`` once the
            model cannot be served, ``stopped``.
        reason: why it is not ready; empty if it is.
    """

    def __init__(
        self,
        model: str,
        spec: Spec,
        metrics: ModelMetrics,
        *,
        accepts: Callable[[ModelInfo], bool],
        changed: Callable[[], None],
        cores: Collection[int] = (),
        echo: Callable[[bytes], object] | None = None,
    ) -> None:
        self.state: State = "loading"
        self.reason = "the model is being loaded"
        self._model = model
        self._spec = spec
        self._cores = cores
        self._metrics = metrics
        self._accepts = accepts
        self._changed = changed
        self._echo = echo
        self._connection: Connection | None = None
        self._running: asyncio.Task[None] | None = None
        self._attempted = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Supervisor {self._model} {self.state}>"

    @property
    def info(self) -> ModelInfo | None:
        """The facts of the model, or ``None`` while no worker can take a call."""
        return self._connection.info if self._connection and not self._connection.lost else None

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

    async def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """See :class:`gateway.workers.worker.Worker`."""
        return await self._live().tokenize(texts)

    async def embed(self, batch: Sequence[TokenIds]) -> Timed:
        """See :class:`gateway.workers.worker.Worker`."""
        return await self._live().embed(batch)

    async def ping(self) -> float:
        """See :class:`gateway.workers.worker.Worker`."""
        return await self._live().ping()

    def _live(self) -> Connection:
        if self._connection is None:
            raise WorkerLost
        return self._connection

    async def _run(self) -> None:
        """Load, serve, die, and again, until the model turns out not to be servable."""
        backoff = BACKOFF_S_MIN
        while True:
            try:
                steady = await self._live_once()
            except LoadRefused as error:
                log.error("model refused", model=self._model, reason=str(error))
                self._to("failed", str(error))
                return
            except Exception:  # a mistake of ours, which must not leave a model that nobody supervises
                log.exception("supervisor failed", model=self._model)
                self._to("loading", "the worker was lost and is started again")
                steady = False
            backoff = BACKOFF_S_MIN if steady else min(BACKOFF_S_MAX, 2 * backoff)
            self._metrics.worker_restarts.inc()
            await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret

    async def _live_once(self) -> bool:
        """Run one process from birth to death; return whether it lived long enough to be called steady.

        Raises:
            LoadRefused: the model cannot be served.
        """
        try:
            connection = await connect(self._spec, self._cores, self._echo)
        except WorkerLost as error:
            log.error("worker died while loading", model=self._model, how=str(error))
            self._to("loading", "the worker died while it loaded the model and is started again")
            self._attempted.set()
            return False
        try:
            return await self._serve(connection)
        finally:
            self._connection = None
            await connection.close()

    async def _serve(self, connection: Connection) -> bool:
        info = connection.info
        if not self._accepts(info):
            raise LoadRefused("the model's files have changed since the gateway started: start it again")
        for note in info.notes:
            log.warning("model note", model=self._model, note=note)
        log.info("model ready", model=self._model, space=info.fingerprint, seconds=connection.load_seconds)
        began = time.monotonic()
        self._connection = connection
        self._to("ready", "")
        how = await connection.ended()
        self._connection = None
        log.error("worker died", model=self._model, how=how)
        self._to("loading", "the worker died and is started again")
        return time.monotonic() - began > STEADY_S

    def _to(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        if state != "loading":
            self._attempted.set()
        self._changed()
