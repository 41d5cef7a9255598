"""Tokenizes texts in a model's workers; if a worker ends, another one is tried.

Texts that arrive in one turn of the event loop share a call: under many small requests the trip to a worker is
most of the cost. Each text has a result of its own, so no text harms another.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.batching.runner import search_aborted
from embeddings_gateway.errors import GatewayError, InputFailed, InternalError, ModelUnavailable, RetryAfter
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

MAX_SHARED_CHARS = 16_384
"""The most characters of a call that several requests share: none waits long for the texts of the others."""

SMALL_CHARS = 1024
"""Fewer characters take a worker so little time that they need not wait for their turn."""

MAX_LARGE_CALLS = 3
"""Open calls of more characters, for each engine: two that its threads work on, and one that follows. The others
wait here, where they are forgotten if their client leaves. A worker would tokenize them all the same."""

MAX_LARGE_CHARS = 1 << 18
"""Characters of open calls, for each engine, up to which their number does not matter."""


class Tokenized(NamedTuple):
    """Token ids of texts.

    Attributes:
        batch: one input for each text; a text that failed has no ids.
        errors: text -> why it failed.
    """

    batch: Batch
    errors: Mapping[int, GatewayError]

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
        dispatcher: chooses the engine.
        quarantine: where texts that fail are remembered.
        model: its name, for the log.
    """

    def __init__(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None,
        dispatcher: Dispatcher,
        quarantine: Quarantine,
        model: str,
    ) -> None:
        self._texts = texts
        self._text_pairs = text_pairs
        self._dispatcher = dispatcher
        self._quarantine = quarantine
        self._log = get_logger().bind(model=model, work="tokenize")
        self._pieces: list[tuple[Sequence[int], Batch]] = []
        self._errors: dict[int, GatewayError] = {}
        self._done: set[int] = set()

    async def run(self) -> Tokenized:
        """Return the ids of each text, or its error."""
        everything = range(len(self._texts))
        while len(self._done) < len(self._texts):
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
        return self._tokenized()

    async def _run(self, engine: Engine, items: Sequence[int]) -> Sequence[int]:
        everything = len(items) == len(self._texts)
        texts = self._texts if everything else [self._texts[item] for item in items]
        pairs = self._text_pairs
        if pairs is not None and not everything:
            pairs = [pairs[item] for item in items]
        batch = await engine.tokenize(texts, pairs)
        if len(batch) != len(items):
            raise InvalidResult(f"ids of {len(batch)} texts for {len(items)}")
        self._pieces.append((items, batch))
        self._done.update(items)
        return ()

    def _pending(self, items: Sequence[int]) -> Sequence[int]:
        """Return the texts that are not done yet, after refusing those that are known to fail."""
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
            return Tokenized(self._pieces[0][1], {})
        nothing = Batch.of([np.empty(0, np.int32)] * len(self._errors))
        order = [item for items, _ in self._pieces for item in items] + list(self._errors)
        batch = Batch.concat([*(piece for _, piece in self._pieces), nothing])
        return Tokenized(batch.select(np.argsort(np.array(order))), self._errors)

    def _content(self, item: int) -> bytes:
        pair = "" if self._text_pairs is None else f"\0{self._text_pairs[item]}"
        return (self._texts[item] + pair).encode("utf-8", "surrogatepass")


class _Waiting(NamedTuple):
    """Texts of one request that no call was made for yet."""

    texts: Sequence[str]
    text_pairs: Sequence[str] | None
    chars: int
    result: asyncio.Future[Tokenized]


class TokenizeCoalescer:
    """Joins texts of several requests, if they arrive in the same turn of the event loop. Belongs to that loop.

    Args:
        model: its name, for the log.
        dispatcher: its engines. While none is ready, or all have many characters before them, texts wait here,
            and those of a request that is over are forgotten.
        quarantine: where texts that fail are remembered.
        unavailable: returns the error of texts if no engine will be ready soon.
    """

    def __init__(
        self,
        model: str,
        dispatcher: Dispatcher,
        quarantine: Quarantine,
        unavailable: Callable[[], GatewayError],
    ) -> None:
        self._model = model
        self._dispatcher = dispatcher
        self._quarantine = quarantine
        self._unavailable = unavailable
        self._waiting: dict[asyncio.Future[Tokenized], _Waiting] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._large_calls: dict[asyncio.Task[None], int] = {}  # and the characters of each
        self._calls_are_due = False
        dispatcher.subscribe(self._make_calls)

    def __repr__(self) -> str:
        return f"<TokenizeCoalescer {len(self._waiting)} waiting, {len(self._calls)} calls>"

    async def tokenize(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> Tokenized:
        """Return the ids of each text, or its error.

        Raises:
            GatewayError: the call failed as a whole.
        """
        loop = asyncio.get_running_loop()
        self._make_calls_soon()
        result: asyncio.Future[Tokenized] = loop.create_future()
        chars = sum(map(len, texts)) + sum(map(len, text_pairs or ()))
        self._waiting[result] = _Waiting(texts, text_pairs, chars, result)
        try:
            return await result
        finally:
            self._waiting.pop(result, None)

    def _make_calls_soon(self) -> None:
        """Make the calls at the end of this turn of the loop."""
        if not self._calls_are_due:
            self._calls_are_due = True
            asyncio.get_running_loop().call_soon(self._make_calls)

    def _make_calls(self) -> None:
        """Make as few calls as the size limit allows. While no engine is ready wait; if none will be, refuse."""
        self._calls_are_due = False
        if not self._waiting or not (self._dispatcher.ready or not self._dispatcher.worth_waiting):
            return
        waiting = list(self._waiting.values())
        if not self._dispatcher.worth_waiting:
            self._waiting = {}
            _fail(waiting, self._unavailable)
            return
        for group in _groups([request for request in waiting if request.chars < SMALL_CHARS]):
            self._start(group, is_large=False)
        for group in _groups([request for request in waiting if request.chars >= SMALL_CHARS]):
            if not self._has_room():
                return
            self._start(group, is_large=True)

    def _has_room(self) -> bool:
        """Return whether another large call can be made."""
        engines, chars = len(self._dispatcher.engines), sum(self._large_calls.values())
        return len(self._large_calls) < MAX_LARGE_CALLS * engines or chars < MAX_LARGE_CHARS * engines

    def _start(self, group: list[_Waiting], *, is_large: bool) -> None:
        for request in group:
            del self._waiting[request.result]
        call = asyncio.get_running_loop().create_task(self._call(group))
        self._calls.add(call)
        if is_large:
            self._large_calls[call] = sum(request.chars for request in group)
        call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._large_calls.pop(call, None)
        if self._waiting:
            self._make_calls_soon()

    async def _call(self, group: list[_Waiting]) -> None:
        first = group[0]
        texts = first.texts if len(group) == 1 else [text for request in group for text in request.texts]
        call = TokenizerCall(texts, first.text_pairs, self._dispatcher, self._quarantine, self._model)
        try:
            tokenized = await call.run()
        except GatewayError as error:
            _fail(group, partial(copy.copy, error))  # each request gets an exception of its own
            return
        except Exception:  # a bug
            get_logger().exception("tokenizing failed", model=self._model, texts=len(texts))
            _fail(group, InternalError)
            return
        begin = 0
        for request in group:
            end = begin + len(request.texts)
            if not request.result.done():
                request.result.set_result(tokenized.part(begin, end))
            begin = end


def _groups(waiting: Sequence[_Waiting]) -> Iterator[list[_Waiting]]:
    """Yield the requests that share a call, in order. Pairs share none."""
    group: list[_Waiting] = []
    chars = 0
    for request in waiting:
        is_pairs = request.text_pairs is not None
        if group and (is_pairs or chars + request.chars > MAX_SHARED_CHARS):
            yield group
            group, chars = [], 0
        group.append(request)
        chars += MAX_SHARED_CHARS + 1 if is_pairs else request.chars
    if group:
        yield group


def _fail(requests: Iterable[_Waiting], make_error: Callable[[], GatewayError]) -> None:
    """Give each request an error of its own."""
    for request in requests:
        if not request.result.done():
            request.result.set_exception(make_error())


def tokenizer_failed() -> InputFailed:
    """Return the error of a text that the tokenizer fails on."""
    return InputFailed("The model's tokenizer cannot take this input.")


def worker_gone() -> ModelUnavailable:
    """Return the error of a text that no engine can tokenize now."""
    return ModelUnavailable("The model's worker went away.", "model", RetryAfter.WORKER_GONE)
