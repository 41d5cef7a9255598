"""A served model: its replicas, its queue and its policies behind one call, ``embed``."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import structlog

from backends.base import ModelInfo, TokenIds, Vectors
from backends.spec import Spec
from gateway.batching.batcher import Batcher
from gateway.batching.job import Request
from gateway.config import ModelConfig
from gateway.errors import (
    DeadlinePassed,
    GatewayError,
    InputFailed,
    InvalidRequest,
    ModelUnavailable,
    SpaceMismatch,
)
from gateway.metrics import ModelMetrics
from gateway.serving.ask import Answer, Ask
from gateway.serving.cl100k import Cl100k
from gateway.serving.dimensions import cut
from gateway.serving.preparer import Preparer
from gateway.workers.replicas import Replicas
from gateway.workers.supervisor import Supervisor
from gateway.workers.worker import CallFailed, WorkerLost

RETRY_LOADING_S = 5
RETRY_LOST_S = 1
RETRY_FAILED_S = 60

log = structlog.get_logger()


class Model:
    """One served model: its replicas, its queue, its policies. Belongs to one event loop."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        metrics: ModelMetrics,
        *,
        cl100k: Cl100k,
        request_tokens_max: int,
        echo: Callable[[bytes], object] | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self._metrics = metrics
        tokens_max = min(request_tokens_max, config.serving.queue_tokens)
        self._preparer = Preparer(config.serving, tokens_max, self._tokenize, cl100k)
        spec = with_threads(config.spec, config.serving.replicas)
        make = functools.partial(Supervisor, name, spec, metrics, echo=echo)
        self.replicas = Replicas(make, config.serving.replicas, self._changed)
        self.batcher = Batcher(name, self.replicas.workers, config.serving.queue_tokens, metrics)

    def __repr__(self) -> str:
        return f"<Model {self.name} {self.replicas.state} {self.batcher!r}>"

    async def embed(self, ask: Ask) -> Answer:
        """Embed every input of ``ask``.

        Raises:
            GatewayError: the request is refused or fails; the tree in ``errors`` tells how.
        """
        info = self._info_for(ask)
        began = time.monotonic()
        try:
            async with asyncio.timeout(ask.seconds_max):
                inputs, truncated = await self._preparer.prepare(ask, info)
                tokenized = time.monotonic()
                request = Request(inputs, info.dimensions, began + ask.seconds_max, ask.partial)
                await self._run(request)
        except TimeoutError:
            raise DeadlinePassed("The request was not done in time.") from None
        vectors = cut(request.vectors, ask.dimensions, info.normalized)
        self._refuse_nothing_left(vectors, request, ask.partial)
        self._metrics.inputs.inc(len(inputs) - len(request.errors))
        self._metrics.tokens.inc(request.tokens)
        self._metrics.truncated.inc(len(truncated))
        return Answer(
            vectors=vectors,
            errors=request.errors,
            tokens=request.tokens,
            truncated=truncated,
            space=info.fingerprint,
            seconds={"tokenize": tokenized - began} | request.seconds(since=tokenized),
        )

    def _refuse_nothing_left(self, vectors: Vectors, request: Request, partial: bool) -> None:
        """Fail the inputs whose vector has nothing in the dimensions that were asked for."""
        for index in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
            if index not in request.errors:
                error = InputFailed("The vector is zero in these dimensions.", f"input[{index}]")
                if not partial:
                    raise error
                request.errors[index] = error

    def _info_for(self, ask: Ask) -> ModelInfo:
        """Return the model's facts, after checking what needs nothing else."""
        info = self.replicas.info
        if info is None:  # the reason may hold paths of this machine: it is for the operator
            retry_s = RETRY_FAILED_S if self.replicas.state == "failed" else RETRY_LOADING_S
            raise ModelUnavailable("The model cannot take a request now; /readyz says why.", "model", retry_s)
        if ask.space not in (None, info.fingerprint):
            raise SpaceMismatch(
                f"The model's embedding space is {info.fingerprint}, the request expects another one.",
                "model",
            )
        if ask.dimensions is not None and ask.dimensions not in info.supported_dimensions:
            offered = ", ".join(map(str, info.supported_dimensions))
            raise InvalidRequest(f"The model offers these dimensions: {offered}.", "dimensions")
        return info

    async def _run(self, request: Request) -> None:
        """Queue the jobs and wait until the last of them is settled."""
        self.batcher.admit(request)
        try:
            await request.done
        finally:
            request.done.cancel()
            self.batcher.discard(request)

    async def _tokenize(self, texts: Sequence[str]) -> Sequence[TokenIds | GatewayError]:
        """Return the ids of each text. A call that fails is halved until only the guilty texts fail."""
        try:
            ids = await self.replicas.least_busy().tokenize(texts)
            if len(ids) != len(texts):
                raise CallFailed(f"ids of {len(ids)} texts for {len(texts)}")
            return ids
        except WorkerLost:
            raise ModelUnavailable("The model's worker went away.", "model", RETRY_LOST_S) from None
        except CallFailed as error:
            log.warning("tokenizer failed", model=self.name, inputs=len(texts), reason=str(error))
            if len(texts) == 1:
                return [InputFailed("The model's tokenizer cannot take this input.")]
            half = len(texts) // 2
            return [*await self._tokenize(texts[:half]), *await self._tokenize(texts[half:])]

    def _changed(self) -> None:
        """Note that a replica has become ready, or has stopped being so."""
        ready = len(self.replicas.ready)
        self._metrics.workers_ready.set(ready)
        if ready:
            self.batcher.step()
        else:
            self.batcher.fail_waiting(
                lambda: ModelUnavailable(f"The model is {self.replicas.state}.", "model", RETRY_LOADING_S)
            )


def with_threads(spec: Spec, replicas: int) -> Spec:
    """Return the spec with the threads of one replica: an equal share of the cores, unless it says."""
    if spec.threads is not None:
        return spec
    return msgspec.structs.replace(spec, threads=max(1, cores() // replicas))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
