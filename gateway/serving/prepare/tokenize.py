"""Tokenizes texts in a model's workers, in a fair order, and never more of them at once than a worker soon finishes.

Texts that arrive in one turn of the event loop share a call: under many small requests the trip to a worker is
most of the cost. Each text has a result of its own, so no text harms another. What nobody waits for any more is
forgotten, or cancelled if a worker has not begun it.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from embeddings_gateway.backends.base import Part
from embeddings_gateway.errors import GatewayError, InternalError
from embeddings_gateway.log import get_logger
from embeddings_gateway.serving.prepare.tokenizer_call import Tokenized, TokenizerCall
from embeddings_gateway.workers.dispatcher import Dispatcher
from embeddings_gateway.workers.isolation import Quarantine

MAX_SHARED_CHARS = 16_384
"""The most characters of a call that several requests share: none waits long for the texts of the others."""

SMALL_CHARS = 1024
"""Fewer characters take a worker so little time that they need not wait for their turn among larger ones."""

SLICE_CHARS = 1 << 15
"""The most characters of a call, unless one text has more: see ``slices``. A worker takes some 30 ms for them."""

MAX_OPEN_CHARS = SLICE_CHARS + SLICE_CHARS // 2
"""The most characters of a lane's open calls, for each engine; but one call may always be open. So one slice leaves
room for shorter texts, and a core for the engine. The others wait here, where they are forgotten if their client
leaves."""

Hold = Callable[["asyncio.Future[Any]", int], None]
"""Is told of each call that is made for a request, and how many characters of the request it has."""


@dataclass(slots=True, eq=False)
class _Request:
    """Texts that wait for a call, or for its result."""

    texts: Sequence[str]
    text_pairs: Sequence[str] | None
    part: Part | None
    chars: int
    hold: Hold | None
    result: asyncio.Future[Tokenized]
    call: _OpenCall | None = None

    @property
    def shares(self) -> bool:
        """Whether its texts can share a call with those of others."""
        return self.text_pairs is None and self.part is None


class _OpenCall:
    """A call that was made, and how many requests still wait for it. It is cancelled when none does.

    A search for a text that harms workers ends after its current step: what that costs has to be counted.
    """

    def __init__(self, call: TokenizerCall, task: asyncio.Task[None], requests: int) -> None:
        self._call = call
        self._task = task
        self._requests = requests

    def leave(self) -> None:
        """One of the requests does not wait any more."""
        self._requests -= 1
        if self._requests:
            return
        if self._call.searching:
            self._call.abandon()
        else:
            self._task.cancel()


class _Lane:
    """Requests of like size: those that wait, and the characters of those that have a call.

    Fair queueing: if all that wait were served at once, character by character, the first to finish would go first.
    The virtual time is the number of characters that each would have been served.

    Args:
        fair: whether the order is fair; else it is that of arrival.
    """

    def __init__(self, *, fair: bool) -> None:
        self.waiting: dict[int, _Request] = {}
        self.open_chars = 0
        self._fair = fair
        self._order: list[tuple[float, int]] = []  # finish and number; also of requests that have left
        self._numbers = itertools.count()
        self._virtual_time = 0.0

    def add(self, request: _Request) -> int:
        """Add a request; return the number by which it leaves."""
        number = next(self._numbers)
        self.waiting[number] = request
        heapq.heappush(self._order, (self._virtual_time + request.chars if self._fair else 0.0, number))
        return number

    def take(self, max_open: int) -> list[_Request]:
        """Remove and return the requests of the next call; none if there is no room for one."""
        group: list[_Request] = []
        chars = 0
        while self._order:
            _, number = self._order[0]
            request = self.waiting.get(number)
            if request is not None:
                total = chars + request.chars
                if (group or self.open_chars) and self.open_chars + total > max_open:
                    break
                if group and not (request.shares and total <= MAX_SHARED_CHARS):
                    break
                group.append(request)
                chars = total if request.shares else MAX_SHARED_CHARS  # then no other joins it
                self._virtual_time += request.chars / len(self.waiting)
                del self.waiting[number]
            heapq.heappop(self._order)
        return group


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
        self._small, self._slices, self._long = self._lanes = (
            _Lane(fair=False),
            _Lane(fair=True),
            _Lane(fair=True),
        )
        self._calls: set[asyncio.Task[None]] = set()
        self._calls_are_due = False
        dispatcher.subscribe(self._make_calls)

    def __repr__(self) -> str:
        return f"<TokenizeCoalescer {self._waiting} waiting, {len(self._calls)} calls>"

    @property
    def _waiting(self) -> int:
        return sum(len(lane.waiting) for lane in self._lanes)

    async def tokenize(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        *,
        part: Part | None = None,
        hold: Hold | None = None,
    ) -> Tokenized:
        """Return the ids of each text, or its error.

        Args:
            texts: the texts.
            text_pairs: the second text of each pair, if they are pairs.
            part: which part of a longer text the only text is.
            hold: is told of the call, which may go on for a moment after this is cancelled.

        Raises:
            GatewayError: the call failed as a whole.
        """
        chars = sum(map(len, texts)) + sum(map(len, text_pairs or ()))
        result: asyncio.Future[Tokenized] = asyncio.get_running_loop().create_future()
        request = _Request(texts, text_pairs, part, chars, hold, result)
        lane = self._lane(chars)
        number = lane.add(request)
        self._make_calls_soon()
        try:
            return await result
        finally:
            lane.waiting.pop(number, None)
            if request.call is not None:
                request.call.leave()

    def _lane(self, chars: int) -> _Lane:
        if chars < SMALL_CHARS:
            return self._small
        return self._slices if chars <= SLICE_CHARS else self._long

    def _make_calls_soon(self) -> None:
        """Make the calls at the end of this turn of the loop."""
        if not self._calls_are_due:
            self._calls_are_due = True
            asyncio.get_running_loop().call_soon(self._make_calls)

    def _make_calls(self) -> None:
        """Make as few calls as the size limits allow. While no engine is ready wait; if none will be, refuse."""
        self._calls_are_due = False
        if not self._dispatcher.worth_waiting:
            for lane in self._lanes:
                _fail(lane.waiting.values(), self._unavailable)
                lane.waiting.clear()
        elif self._dispatcher.ready:
            max_open = MAX_OPEN_CHARS * len(self._dispatcher.engines)
            for lane in self._lanes:
                while group := lane.take(max_open):
                    self._start(lane, group)

    def _start(self, lane: _Lane, group: list[_Request]) -> None:
        first = group[0]
        texts = first.texts if len(group) == 1 else [text for request in group for text in request.texts]
        call = TokenizerCall(
            texts,
            first.text_pairs,
            first.part,
            dispatcher=self._dispatcher,
            quarantine=self._quarantine,
            model=self._model,
        )
        task = asyncio.get_running_loop().create_task(self._run(call, group))
        self._calls.add(task)
        open_call = _OpenCall(call, task, len(group))
        chars = 0
        for request in group:
            request.call = open_call
            chars += request.chars
            if request.hold is not None:
                request.hold(task, request.chars)
        lane.open_chars += chars
        task.add_done_callback(partial(self._ended, lane, chars))

    def _ended(self, lane: _Lane, chars: int, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        lane.open_chars -= chars
        if lane.waiting:
            self._make_calls_soon()

    async def _run(self, call: TokenizerCall, group: list[_Request]) -> None:
        try:
            tokenized = await call.run()
        except GatewayError as error:
            _fail(group, partial(copy.copy, error))  # each request gets an exception of its own
            return
        except Exception:  # a bug
            get_logger().exception("tokenizing failed", model=self._model)
            _fail(group, InternalError)
            return
        begin = 0
        for request in group:
            end = begin + len(request.texts)
            if not request.result.done():
                request.result.set_result(tokenized.part(begin, end))
            begin = end


def _fail(requests: Iterable[_Request], make_error: Callable[[], GatewayError]) -> None:
    """Give each request an error of its own."""
    for request in requests:
        if not request.result.done():
            request.result.set_exception(make_error())
