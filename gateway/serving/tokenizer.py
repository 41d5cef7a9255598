"""The model's tokenizer, wherever it runs and whatever becomes of that worker."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import structlog

from backends.base import TokenIds
from gateway.batching.poison import Poison
from gateway.errors import GatewayError, InputFailed, ModelUnavailable
from gateway.workers.isolation import Failure, Isolation
from gateway.workers.replicas import Replicas
from gateway.workers.worker import CallFailed, Worker, WorkerLost, WrongAnswer

RETRY_LOST_S = 1

log = structlog.get_logger()


class Tokenizer:
    """Answers for each text by itself, so that no text does harm to its neighbours.

    Args:
        model: its name, for the log.
        replicas: any of them tokenizes.
        poison: where texts that end a worker are remembered.
    """

    def __init__(self, model: str, replicas: Replicas, poison: Poison) -> None:
        self._log = log.bind(model=model)
        self._replicas = replicas
        self._poison = poison

    async def __call__(self, texts: Sequence[str]) -> Sequence[TokenIds | GatewayError]:
        """Return the ids of each text, or why it has none.

        Raises:
            ModelUnavailable: there is no worker, nor soon will be.
        """
        return await (self._without_poison if len(self._poison) else self._tokenized)(texts)

    async def _tokenized(self, texts: Sequence[str]) -> Sequence[TokenIds | GatewayError]:
        while True:
            try:
                worker = await self._replicas.least_busy()
            except WorkerLost:
                raise ModelUnavailable("The model's worker went away.", "model", RETRY_LOST_S) from None
            try:
                return await _ids(worker, texts)
            except WorkerLost as lost:
                if lost.suspect:
                    return await self._searched(worker, texts, lost)
            except CallFailed as failure:
                return await self._searched(worker, texts, failure)

    async def _without_poison(self, texts: Sequence[str]) -> Sequence[TokenIds | GatewayError]:
        """Have those tokenized that are not known to end a worker."""
        found: list[TokenIds | GatewayError | None] = [
            failed() if _content(text) in self._poison else None for text in texts
        ]
        good = [text for text, error in zip(texts, found, strict=True) if error is None]
        ids = iter(await self._tokenized(good))
        return [next(ids) if error is None else error for error in found]

    async def _searched(
        self, worker: Worker, texts: Sequence[str], failure: Failure
    ) -> Sequence[TokenIds | GatewayError]:
        """Run texts again that failed together; only the guilty fail."""
        self._log.warning("tokenizer failed", inputs=len(texts), reason=str(failure))
        lost = ModelUnavailable("The model's worker went away.", "model", RETRY_LOST_S)
        found: list[TokenIds | GatewayError] = [lost] * len(texts)

        async def call(places: Sequence[int]) -> Sequence[TokenIds]:
            return await _ids(worker, [texts[place] for place in places])

        def tell(place: int, outcome: TokenIds | Failure) -> None:
            found[place] = self._blamed(texts[place], outcome) if isinstance(outcome, Exception) else outcome

        with suppress(WorkerLost):  # for good: who has no answer yet keeps that error
            await Isolation(worker, call, tell).run(range(len(texts)), failure)
        return found

    def _blamed(self, text: str, failure: Failure) -> InputFailed:
        if isinstance(failure, WorkerLost):
            self._poison.add(_content(text))
        return failed()


async def _ids(worker: Worker, texts: Sequence[str]) -> list[TokenIds]:
    ids = await worker.tokenize(texts)
    if len(ids) != len(texts):
        raise WrongAnswer(f"ids of {len(ids)} texts for {len(texts)}")
    return ids


def failed() -> InputFailed:
    """Return the error of a text that the tokenizer fails on."""
    return InputFailed("The model's tokenizer cannot take this input.")


def _content(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
