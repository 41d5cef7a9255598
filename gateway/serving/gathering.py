"""Calls to a tokenizer that are made in the same turn of the event loop, made as one.

A call costs a trip to a worker, whatever its size; under many small requests that is most of what it costs.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from embeddings_gateway.backends.base import TokenIds
from embeddings_gateway.errors import GatewayError, InternalError
from embeddings_gateway.log import get_logger

Tokenized = Sequence[TokenIds | GatewayError]
Tokenize = Callable[[Sequence[str]], Awaitable[Tokenized]]

CHARS_MAX = 16_384  # so that nobody waits long for a neighbour's texts

log = get_logger()


class PendingCall(NamedTuple):
    """A call that has not been made yet."""

    texts: Sequence[str]
    chars: int
    ids: asyncio.Future[Tokenized]


class Gathering:
    """A tokenizer, called once for all that ask in the same turn. Belongs to one event loop.

    Args:
        tokenize: answers for each text by itself, so that no text does harm to its neighbours.
        ready: whether it can be called now. While it cannot, texts wait here, where those of a request that
            is over are forgotten.
    """

    def __init__(self, tokenize: Tokenize, ready: Callable[[], bool] = lambda: True) -> None:
        self._tokenize = tokenize
        self._ready = ready
        self._waiting: dict[asyncio.Future[Tokenized], PendingCall] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._refusal: Callable[[], GatewayError] | None = None

    def __repr__(self) -> str:
        return f"<Gathering {len(self._waiting)} waiting, {len(self._calls)} calls>"

    async def __call__(self, texts: Sequence[str]) -> Tokenized:
        """Return the ids of each text, or why it has none.

        Raises:
            GatewayError: the call failed as a whole.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._make_calls)
        ids: asyncio.Future[Tokenized] = loop.create_future()
        self._waiting[ids] = PendingCall(texts, sum(map(len, texts)), ids)
        try:
            return await ids
        finally:
            self._waiting.pop(ids, None)

    def wait(self) -> None:
        """Let texts wait until the tokenizer can be called, from now on."""
        self._refusal = None
        self._make_calls()

    def refuse(self, make: Callable[[], GatewayError]) -> None:
        """Fail those that wait, or would have to from now on, with an error of their own."""
        self._refusal = make
        waiting, self._waiting = self._waiting, {}
        _fail(waiting.values(), make)

    def _make_calls(self) -> None:
        """Make the calls for those that wait, in as few as their size allows, if they can be made."""
        if self._refusal is not None:
            self.refuse(self._refusal)
        if not self._waiting or self._refusal is not None or not self._ready():
            return
        waiting, self._waiting = self._waiting, {}
        group: list[PendingCall] = []
        chars = 0
        for one in waiting.values():
            if group and chars + one.chars > CHARS_MAX:
                self._start(group)
                group, chars = [], 0
            group.append(one)
            chars += one.chars
        self._start(group)

    def _start(self, group: list[PendingCall]) -> None:
        call = asyncio.get_running_loop().create_task(self._call(group))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, group: list[PendingCall]) -> None:
        texts = group[0].texts if len(group) == 1 else [text for one in group for text in one.texts]
        try:
            ids = await self._tokenize(texts)
        except GatewayError as error:
            _fail(group, partial(copy.copy, error))  # each request says of its own where it failed
            return
        except Exception:  # which the requests need not be able to share
            log.exception("tokenizing failed", texts=len(texts))
            _fail(group, InternalError)
            return
        begin = 0
        for one in group:
            end = begin + len(one.texts)
            if not one.ids.done():
                one.ids.set_result(ids[begin:end])
            begin = end


def _fail(calls: Iterable[PendingCall], make: Callable[[], GatewayError]) -> None:
    """Give each call an error of its own."""
    for one in calls:
        if not one.ids.done():
            one.ids.set_exception(make())
