"""A model that this gateway computes itself: puts its engines, queue and policies behind one method, ``run``."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.batching.batcher import Batcher
from embeddings_gateway.batching.request import Request
from embeddings_gateway.config import ModelConfig
from embeddings_gateway.errors import DeadlinePassed, ModelUnavailable, RetryAfter
from embeddings_gateway.metrics import ModelMetrics
from embeddings_gateway.serving.assemble import Assembled, assemble
from embeddings_gateway.serving.prepare.cl100k import Cl100k
from embeddings_gateway.serving.prepare.policies import Estimate, Prompt
from embeddings_gateway.serving.prepare.prepare import Prepared, Preparer
from embeddings_gateway.serving.prepare.tokenize import TokenizeCoalescer
from embeddings_gateway.serving.served import Call, Result, are_texts, check_supported
from embeddings_gateway.workers.dispatcher import Dispatcher
from embeddings_gateway.workers.engine import MakeEngine, State
from embeddings_gateway.workers.isolation import Quarantine


class LocalModel:
    """A :class:`~embeddings_gateway.serving.served.Served` with engines of its own. Belongs to one event loop.

    Args:
        name: by which clients call it.
        config: its backend and its policies.
        engines: make its engines.
        metrics: of this model.
        cl100k: the vocabulary of OpenAI's clients.
        max_request_tokens: the most tokens of one call.
    """

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        engines: Sequence[MakeEngine],
        metrics: ModelMetrics,
        *,
        cl100k: Cl100k,
        max_request_tokens: int,
    ) -> None:
        self.name = name
        self.aliases = config.serving.aliases
        self.backend = config.spec.kind
        self._missing_path = config.missing_path
        self._serving = config.serving
        self._metrics = metrics
        self._estimate = Estimate()
        quarantine = Quarantine()
        self._dispatcher = Dispatcher()
        tokenizer = TokenizeCoalescer(name, self._dispatcher, quarantine, self._unavailable)
        max_tokens = min(max_request_tokens, config.serving.max_queue_tokens)
        self._preparer = Preparer(config.serving, max_tokens, tokenizer, cl100k)
        self._batcher = Batcher(
            name,
            self._dispatcher,
            config.serving,
            metrics,
            quarantine=quarantine,
            unavailable=self._unavailable,
        )
        for make in engines:
            self._dispatcher.add(make)
        metrics.watch_workers(lambda: sum(engine.ready for engine in self._dispatcher.engines))

    def __repr__(self) -> str:
        return f"<LocalModel {self.name} {self.state} {self._batcher!r}>"

    @property
    def info(self) -> ModelInfo | None:
        """The model's facts; ``None`` until it is loaded for the first time."""
        return self._dispatcher.info

    @property
    def state(self) -> State:
        """The best state of its engines."""
        return self._dispatcher.state

    @property
    def reason(self) -> str:
        """Why it is not ready; empty if it is."""
        reason = self._dispatcher.reason
        if self._missing_path is None or self.state != "failed":
            return reason
        return f"there is no directory {self._missing_path}, so that path is a hub id: {reason}"

    def start(self) -> None:
        """See :class:`~embeddings_gateway.serving.served.Served`."""
        self._dispatcher.start()

    async def first_attempt(self) -> None:
        """See :class:`~embeddings_gateway.serving.served.Served`."""
        await self._dispatcher.first_attempt()

    async def stop(self) -> None:
        """See :class:`~embeddings_gateway.serving.served.Served`."""
        await self._dispatcher.stop()

    async def unready(self) -> str:
        """See :class:`~embeddings_gateway.serving.served.Served`."""
        return await self._dispatcher.unready()

    async def run(self, call: Call) -> Result:
        """Compute the outputs of every input of ``call``: reserve, prepare, compute, assemble.

        Raises:
            GatewayError: the call is refused or fails.
        """
        info = self.check(call)
        prompt = self._preparer.prompt(call, info)
        call = await self._preparer.refuse_certainly_too_long(call, info)
        estimate = self._estimated_tokens(call, prompt, info)
        seconds_left = None if call.deadline == math.inf else call.deadline - time.monotonic()
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds_left):
                with self._batcher.admission.reserve(estimate, call.deadline, call.caller) as ticket:
                    prepared = await self._preparer.prepare(call, info, prompt, ticket.hold)
                    call.timings["tokenize"] = time.monotonic() - began
                    ticket.correct(prepared.batch.tokens)
                    request = _request(call, prepared)
                    self._batcher.enqueue(request)
                await self._batcher.finished(request)
        except TimeoutError:
            raise DeadlinePassed from None
        call.timings["queue"], call.timings["infer"] = request.seconds()
        dimensions = info.dimensions_for(call.options.dimensions)
        assembled = await assemble(request, prepared.windows, dimensions, info)
        if assembled.errors and not call.options.partial:
            raise assembled.errors[min(assembled.errors)]
        self._learn(call, prompt, info, prepared)
        return self._result(prompt, info, prepared, assembled)

    def check(self, call: Call) -> ModelInfo:
        """See :class:`~embeddings_gateway.serving.served.Served`."""
        info = self.info
        if info is None or not self._dispatcher.worth_waiting:
            raise self._unavailable()
        check_supported(call, info)
        return info

    def _estimated_tokens(self, call: Call, prompt: Prompt, info: ModelInfo) -> int:
        """Return about how many tokens a call has; never so many that an estimate alone would refuse it."""
        cuts = (call.options.truncate or self._serving.truncate) in ("right", "left")
        estimate = self._estimate.of(call.inputs, prompt.text, info, cuts=cuts)
        return min(estimate, self._preparer.max_tokens(call))

    def _learn(self, call: Call, prompt: Prompt, info: ModelInfo, prepared: Prepared) -> None:
        """Learn from the number of tokens of a call, unless some texts were cut or failed."""
        if are_texts(call.inputs) and not prepared.truncated and not prepared.errors:
            rows, tokens = len(prepared.batch), prepared.batch.tokens
            self._estimate.learn(call.inputs, prompt.text, info, rows, tokens)

    def _result(self, prompt: Prompt, info: ModelInfo, prepared: Prepared, assembled: Assembled) -> Result:
        errors, windows, tokens = assembled.errors, prepared.windows, prepared.batch.tokens
        inputs = len(prepared.batch) if windows is None else int(windows.inputs[-1]) + 1
        self._metrics.inputs.inc(inputs - len(errors))
        self._metrics.tokens.inc(tokens)
        self._metrics.truncated.inc(len(prepared.truncated))
        averaged = () if windows is None else windows.averaged().tolist()
        return Result(
            columns=assembled.columns,
            errors=errors,
            batch=prepared.batch,
            truncated=prepared.truncated,
            averaged=[index for index in averaged if index not in errors],
            prompt=prompt.name,
        )

    def _unavailable(self) -> ModelUnavailable:
        """Return the error of a call that comes now, without the reason: that may hold paths."""
        retry_s = RetryAfter.FAILED if self.state == "failed" else RetryAfter.LOADING
        return ModelUnavailable("The model cannot take a request now; /readyz says why.", "model", retry_s)


def _request(call: Call, prepared: Prepared) -> Request:
    return Request(
        prepared.batch,
        call.outputs,
        caller=call.caller,
        errors=prepared.errors,
        partial=call.options.partial,
        row_inputs=None if prepared.windows is None else prepared.windows.inputs,
    )
