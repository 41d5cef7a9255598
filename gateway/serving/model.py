"""A served model: its replicas, its queue and its policies behind one call, ``embed``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.batching.batcher import Batcher
from embeddings_gateway.batching.job import Request
from embeddings_gateway.batching.poison import Poison
from embeddings_gateway.config import ModelConfig
from embeddings_gateway.errors import (
    DeadlinePassed,
    GatewayError,
    InvalidRequest,
    ModelUnavailable,
    SpaceMismatch,
)
from embeddings_gateway.metrics import ModelMetrics
from embeddings_gateway.serving.ask import Answer, Ask, are_texts
from embeddings_gateway.serving.averages import Averages
from embeddings_gateway.serving.cl100k import Cl100k
from embeddings_gateway.serving.estimate import Estimate
from embeddings_gateway.serving.gathering import Gathering
from embeddings_gateway.serving.preparer import Preparer
from embeddings_gateway.serving.prompts import Prompt
from embeddings_gateway.serving.tokenizer import Tokenizer
from embeddings_gateway.serving.vectors import Made, average_all, blank_all, cut_all
from embeddings_gateway.workers.local import local
from embeddings_gateway.workers.replicas import Replicas

RETRY_LOADING_S = 5
RETRY_FAILED_S = 60


class Model:
    """One served model: its replicas, its queue, its policies. Belongs to one event loop."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        metrics: ModelMetrics,
        *,
        cl100k: Cl100k,
        max_request_tokens: int,
        echo: Callable[[bytes], object] | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self._metrics = metrics
        tokens_max = min(max_request_tokens, config.serving.max_queue_tokens)
        makes = local(name, config, metrics, echo)
        self.replicas = Replicas(makes, self._changed)
        metrics.watch_workers(lambda: len(self.replicas.ready))
        poison = Poison()
        self._gathering = Gathering(
            Tokenizer(name, self.replicas, poison), ready=lambda: bool(self.replicas.ready)
        )
        self._estimate = Estimate()
        self._preparer = Preparer(config.serving, tokens_max, self._gathering, cl100k)
        self.batcher = Batcher(
            name,
            self.replicas.workers,
            config.serving.max_queue_tokens,
            metrics,
            poison,
            audit_every=config.serving.audit_every,
        )

    def __repr__(self) -> str:
        return f"<Model {self.name} {self.replicas.state} {self.batcher!r}>"

    async def embed(self, ask: Ask) -> Answer:
        """Embed every input of ``ask``.

        Raises:
            GatewayError: the request is refused or fails; the tree in ``errors`` tells how.
        """
        info = self.info_for(ask)
        began = time.monotonic()
        try:
            async with asyncio.timeout(ask.seconds_max):
                prompt = self._preparer.prompt_for(ask, info)
                with self.batcher.admission.expected(self._about(ask, prompt, info), ask.seconds_max):
                    prepared = await self._preparer.prepare(ask, info, prompt)
                tokenized = time.monotonic()
                tokens = sum(len(ids) for ids in prepared.rows if not isinstance(ids, GatewayError))
                # before room is made for its vectors
                self.batcher.admission.check(tokens, began + ask.seconds_max - tokenized)
                vectors = await blank_all(len(prepared.rows), info.dimensions)
                averages = prepared.averages
                places = None if averages is None else averages.places
                request = Request(prepared.rows, vectors, began + ask.seconds_max, ask.partial, places)
                await self._run(request)
        except TimeoutError:
            raise DeadlinePassed from None
        if are_texts(ask.inputs) and not prepared.truncated and not request.errors:
            self._estimate.learn(ask, prompt.words, info, len(prepared.rows), request.tokens)
        made = await made_of(request, averages, ask, info)
        self._metrics.inputs.inc(len(ask.inputs) - len(made.errors))
        self._metrics.tokens.inc(request.tokens)
        self._metrics.truncated.inc(len(prepared.truncated))
        return Answer(
            vectors=made.vectors,
            errors=made.errors,
            tokens=request.tokens,
            truncated=prepared.truncated,
            averaged=[] if averages is None else [one for one in averages.inputs if one not in made.errors],
            prompt=prompt.name,
            space=info.fingerprint,
            seconds={"tokenize": tokenized - began} | request.seconds(since=tokenized),
        )

    def info_for(self, ask: Ask) -> ModelInfo:
        """Return the model's facts, after checking what needs nothing else.

        Raises:
            GatewayError: the request is refused.
        """
        info = self.replicas.info
        if info is None or not self.replicas.worth_waiting:
            raise self._unavailable()
        if ask.space not in (None, info.fingerprint):
            raise SpaceMismatch(
                f"The model's embedding space is {info.fingerprint}, the request expects another one.",
                "model",
            )
        if ask.dimensions is not None and ask.dimensions not in info.supported_dimensions:
            offered = ", ".join(map(str, info.supported_dimensions))
            raise InvalidRequest(f"The model offers these dimensions: {offered}.", "dimensions")
        return info

    def _about(self, ask: Ask, prompt: Prompt, info: ModelInfo) -> int:
        """Return about how many tokens a request has; no more than may wait, before that is certain."""
        cuts = (ask.truncate or self.config.serving.truncate) in ("right", "left")
        return min(
            self._estimate.of(ask, prompt.words, info, cuts=cuts), self.config.serving.max_queue_tokens
        )

    async def _run(self, request: Request) -> None:
        """Queue the jobs and wait until the last of them is settled."""
        self.batcher.admit(request)
        try:
            await request.done
        finally:
            request.done.cancel()
            self.batcher.discard(request)

    def _changed(self) -> None:
        """Note that a replica has become ready, or has stopped being so."""
        if self.replicas.worth_waiting:
            self._gathering.wait()
            self.batcher.wait()
        else:
            self._gathering.refuse(self._unavailable)
            self.batcher.refuse(self._unavailable)

    def _unavailable(self) -> ModelUnavailable:
        """Return the error of a request that comes now. The reason may hold paths: it is for the operator."""
        retry_s = RETRY_FAILED_S if self.replicas.state == "failed" else RETRY_LOADING_S
        return ModelUnavailable("The model cannot take a request now; /readyz says why.", "model", retry_s)


async def made_of(request: Request, averages: Averages | None, ask: Ask, info: ModelInfo) -> Made:
    """Return what the vectors of a finished request make of its inputs.

    Raises:
        InputFailed: one has no vector, and the request is not to be answered in part.
    """
    made = Made(request.vectors, request.errors)
    if averages is not None:
        made = await average_all(made, averages, info)
    made = await cut_all(made, ask, info)
    if made.errors and not ask.partial:
        raise made.errors[min(made.errors)]
    return made
