"""One call to a model's tokenizer: on one worker, or on another if that ends, until each text has ids or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from embeddings_gateway.backends.base import Batch, Part
from embeddings_gateway.batching.runner import search_aborted
from embeddings_gateway.errors import GatewayError, InputFailed, ModelUnavailable, RetryAfter
from embeddings_gateway.log import get_logger
from embeddings_gateway.workers.dispatcher import Dispatcher
from embeddings_gateway.workers.engine import (
    CallFailed,
    Engine,
    InvalidResult,
    SearchAborted,
    WorkerGone,
)
from embeddings_gateway.workers.isolation import FaultIsolation, Quarantine


class Tokenized(NamedTuple):
    """Token ids of texts.

    Attributes:
        batch: one input for each text; a text that failed has no ids.
        errors: text -> why it failed.
        certain: begin and end of the characters that the ids are of, if the only text is a part of a longer one.
    """

    batch: Batch
    errors: Mapping[int, GatewayError]
    certain: tuple[int, int] | None = None

    def part(self, begin: int, end: int) -> Tokenized:
        """Return the texts from ``begin`` to ``end``."""
        if begin == 0 and end == len(self.batch):
            return self
        errors = {text - begin: error for text, error in self.errors.items() if begin <= text < end}
        return Tokenized(self.batch.part(begin, end), errors)


class TokenizerCall:
    """Tokenizes some texts on one engine, or on another if that is lost. Finds texts that an engine fails on.

    Args:
        texts: to be tokenized.
        text_pairs: the second text of each pair, if they are pairs.
        part: which part of a longer text the only text is.
        dispatcher: chooses the engine.
        quarantine: where texts that fail are remembered.
        model: its name, for the log.

    Attributes:
        searching: whether an engine has failed, so that the text at fault is searched for.
    """

    def __init__(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None,
        part: Part | None,
        *,
        dispatcher: Dispatcher,
        quarantine: Quarantine,
        model: str,
    ) -> None:
        self._texts = texts
        self._text_pairs = text_pairs
        self._part = part
        self._certain: tuple[int, int] | None = None
        self._dispatcher = dispatcher
        self._quarantine = quarantine
        self._log = get_logger().bind(model=model, work="tokenize")
        self._pieces: list[tuple[Sequence[int], Batch]] = []
        self._errors: dict[int, GatewayError] = {}
        self._done: set[int] = set()
        self.searching = False
        self._abandoned = False

    async def run(self) -> Tokenized:
        """Return the ids of each text, or its error."""
        everything = range(len(self._texts))
        while len(self._done) < len(self._texts) and not self._abandoned:
            try:
                engine = await self._dispatcher.tokenizing_engine()
                with self._dispatcher.tokenizing(engine):
                    run = partial(self._run, engine)
                    isolation = FaultIsolation(engine, run, self._fail, self._pending, self._log)
                    await isolation.run(everything)
            except WorkerGone as error:  # the texts are not at fault
                if not self._dispatcher.worth_waiting:
                    self._log.warning("no engine tokenizes", inputs=len(self._texts), reason=str(error))
                    for text in self._pending(everything):
                        self._refuse(text, worker_gone())
        for text in set(everything) - self._done:  # it was abandoned
            self._refuse(text, worker_gone())
        return self._tokenized()

    def abandon(self) -> None:
        """End the search for a text that an engine fails on, as soon as possible: nobody waits for the texts."""
        self._abandoned = True

    async def _run(self, engine: Engine, items: Sequence[int]) -> Sequence[int]:
        everything = len(items) == len(self._texts)
        texts = self._texts if everything else [self._texts[item] for item in items]
        pairs = self._text_pairs
        if pairs is not None and not everything:
            pairs = [pairs[item] for item in items]
        try:
            batch, declined, self._certain = await engine.tokenize(texts, pairs, self._part)
        except CallFailed:
            self.searching = True
            raise
        if len(batch) != len(items):
            raise InvalidResult(f"ids of {len(batch)} texts for {len(items)}")
        if declined:
            for index, reason in declined.items():
                self._refuse(items[index], tokenizer_failed(reason))
            accepted = [index for index in range(len(items)) if index not in declined]
            items, batch = [items[index] for index in accepted], batch.select(np.array(accepted, np.int64))
        self._pieces.append((items, batch))
        self._done.update(items)
        return ()

    def _pending(self, items: Sequence[int]) -> Sequence[int]:
        """Return the texts that are not done yet, after refusing those that are known to fail."""
        if self._abandoned:
            return []
        if len(self._quarantine):
            for item in items:
                if item not in self._done and self._content(item) in self._quarantine:
                    self._refuse(item, tokenizer_failed())
        return [item for item in items if item not in self._done] if self._done else items

    def _fail(self, item: int, failure: CallFailed | SearchAborted) -> None:
        if isinstance(failure, SearchAborted):
            self._refuse(item, search_aborted())
            return
        self._quarantine.add(self._content(item), failure)
        self._refuse(item, tokenizer_failed())

    def _refuse(self, item: int, error: GatewayError) -> None:
        self._errors[item] = error
        self._done.add(item)

    def _tokenized(self) -> Tokenized:
        if len(self._pieces) == 1 and not self._errors:
            return Tokenized(self._pieces[0][1], {}, self._certain)
        nothing = Batch.of([np.empty(0, np.int32)] * len(self._errors))
        order = [item for items, _ in self._pieces for item in items] + list(self._errors)
        batch = Batch.concat([*(piece for _, piece in self._pieces), nothing])
        return Tokenized(batch.select(np.argsort(np.array(order))), self._errors)

    def _content(self, item: int) -> bytes:
        pair = "" if self._text_pairs is None else f"\0{self._text_pairs[item]}"
        return (self._texts[item] + pair).encode("utf-8", "surrogatepass")


def tokenizer_failed(reason: str = "") -> InputFailed:
    """Return the error of a text that the tokenizer fails on; ``reason`` is a backend's own, without the text."""
    return InputFailed(f"The model's tokenizer cannot take this input{reason and ': '}{reason}.")


def worker_gone() -> ModelUnavailable:
    """Return the error of a text that no engine can tokenize now."""
    return ModelUnavailable("The model's worker went away.", "model", RetryAfter.WORKER_GONE)
