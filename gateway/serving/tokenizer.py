"""The model's tokenizer, wherever it runs and whatever becomes of that worker."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_gateway.backends.base import TokenIds
from embeddings_gateway.batching.poison import Poison
from embeddings_gateway.batching.runner import given_up
from embeddings_gateway.errors import GatewayError, InputFailed, ModelUnavailable
from embeddings_gateway.log import get_logger
from embeddings_gateway.workers.isolation import GivenUp, Isolation
from embeddings_gateway.workers.replicas import Replicas
from embeddings_gateway.workers.worker import (
    CallFailed,
    OutOfMemory,
    Worker,
    WorkerDied,
    WorkerLost,
    WrongAnswer,
)

RETRY_LOST_S = 1


class Tokenizer:
    """Answers for each text by itself, so that no text does harm to its neighbours.

    Args:
        model: its name, for the log.
        replicas: any of them tokenizes.
        poison: where texts that end a worker are remembered.
    """

    def __init__(self, model: str, replicas: Replicas, poison: Poison) -> None:
        self._log = get_logger().bind(model=model, work="tokenize")
        self._replicas = replicas
        self._poison = poison

    async def __call__(self, texts: Sequence[str]) -> Sequence[TokenIds | GatewayError]:
        """Return the ids of each text, or why it has none."""
        found: dict[int, TokenIds | GatewayError] = {}
        while len(found) < len(texts):
            try:
                await self._attempt(await self._replicas.least_busy(), texts, found)
            except WorkerLost as lost:  # by no fault of these
                if not self._replicas.worth_waiting:
                    self._log.warning("nobody tokenizes", inputs=len(texts), reason=str(lost))
                    gone = ModelUnavailable("The model's worker went away.", "model", RETRY_LOST_S)
                    found = dict.fromkeys(range(len(texts)), gone) | found
        return [found[place] for place in range(len(texts))]

    async def _attempt(
        self, worker: Worker, texts: Sequence[str], found: dict[int, TokenIds | GatewayError]
    ) -> None:
        """Have the texts tokenized that nothing was found for.

        Raises:
            WorkerLost: by no fault of those that still have nothing.
        """

        async def call(places: Sequence[int]) -> Sequence[TokenIds]:
            ids = await worker.tokenize([texts[place] for place in places])
            if len(ids) != len(places):
                raise WrongAnswer(f"ids of {len(ids)} texts for {len(places)}")
            return ids

        def tell(place: int, outcome: TokenIds | CallFailed | GivenUp) -> None:
            found[place] = self._error(texts[place], outcome) if isinstance(outcome, Exception) else outcome

        def still(places: Sequence[int]) -> Sequence[int]:
            for place in places if len(self._poison) else ():
                if place not in found and _content(texts[place]) in self._poison:
                    found[place] = failed()
            return [place for place in places if place not in found]

        await Isolation(worker, call, tell, still, self._log).run(range(len(texts)))

    def _error(self, text: str, failure: CallFailed | GivenUp) -> GatewayError:
        if isinstance(failure, GivenUp):
            return given_up()
        if isinstance(failure, WorkerDied) and not isinstance(failure, OutOfMemory):
            self._poison.add(_content(text))
        return failed()


def failed() -> InputFailed:
    """Return the error of a text that the tokenizer fails on."""
    return InputFailed("The model's tokenizer cannot take this input.")


def _content(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
