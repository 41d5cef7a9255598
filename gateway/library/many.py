"""Texts in any number through a model, a few parts at a time: enough to keep its workers busy."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np

from embeddings_gateway.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    TooManyTokens,
)
from embeddings_gateway.library.embeddings import Embeddings
from embeddings_gateway.serving.served import Call, InputLimits, Result, Served, Texts, check
from embeddings_gateway.workers.engine import OVER

PART = 256
PART_CHARS = 500_000
PARTS_AT_ONCE = 4

Progress = Callable[[int, int], object]
"""Is called with how many texts are done, and how many there are."""

MAX_TRIES = 24
"""How often a restarting model is asked, every few seconds, before a call gives up."""

_INPUT = re.compile(r"^input\[(\d+)\]$")


class _Collected:
    """The results of the texts so far.

    Args:
        texts: how many there are.
        progress: is called after every part that is done.
    """

    def __init__(self, texts: int, progress: Progress | None) -> None:
        self._texts = texts
        self._vectors: np.ndarray | None = None
        self._errors: dict[int, GatewayError] = {}
        self._truncated: list[int] = []
        self._averaged: list[int] = []
        self._prompt: str | None = None
        self._tokens = 0
        self._done = 0
        self._progress = progress

    def add(self, start: int, result: Result, texts: int) -> None:
        """Take the result of so many texts from ``start`` on."""
        rows = np.setdiff1d(np.arange(texts), list(result.errors))
        if len(rows):
            if self._vectors is None:
                self._vectors = self._blank(result.vectors.shape[1])
            self._vectors[start + rows] = result.vectors[rows]
        self._errors |= {start + index: numbered(error, start) for index, error in result.errors.items()}
        self._truncated += (start + index for index in result.truncated)
        self._averaged += (start + index for index in result.averaged)
        self._prompt = result.prompt
        self._tokens += result.tokens
        self._count(texts)

    def fail(self, text: int, error: GatewayError) -> None:
        """Take the error of a text that is too long for any request."""
        self._errors[text] = error
        self._count(1)

    def embeddings(self, model: str, fingerprint: str, dimensions: int, seconds: float) -> Embeddings:
        """Return all of it.

        Raises:
            InternalError: something is missing.
        """
        if self._done != self._texts:
            raise InternalError
        return Embeddings(
            vectors=self._blank(dimensions) if self._vectors is None else self._vectors,
            errors=dict(sorted(self._errors.items())),
            model=model,
            space=fingerprint,
            prompt=self._prompt,
            tokens=self._tokens,
            truncated=sorted(self._truncated),
            averaged=sorted(self._averaged),
            seconds=seconds,
        )

    def _blank(self, dimensions: int) -> np.ndarray:
        return np.full((self._texts, dimensions), np.nan, np.float32)

    def _count(self, texts: int) -> None:
        self._done += texts
        if self._progress is not None:
            self._progress(self._done, self._texts)


async def embed_many(
    served: Served, call: Call, limits: InputLimits, progress: Progress | None
) -> Embeddings:
    """Embed the texts of ``call``, of which there may be any number.

    Args:
        served: it is loaded.
        call: for dense vectors of texts.
        limits: bounds on one text.
        progress: is called in the event loop.

    Raises:
        GatewayError: a text cannot be embedded, and ``partial`` is false; or none can now.
    """
    began = time.monotonic()
    info = served.info
    if info is None:
        raise unavailable(served, ModelUnavailable("The model is not loaded."))
    check(call, info)
    texts = cast(Texts, call.inputs)
    refused = find_errors(texts, limits)
    if refused and not call.options.partial:
        raise refused[min(refused)]
    call = call.part(texts, refused)
    collected = _Collected(len(texts), progress)
    parts = parts_of(texts)

    async def work() -> None:
        for start, end in parts:
            await _embed_part(served, call, start, end, collected)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(PARTS_AT_ONCE):
                tasks.create_task(work())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    dimensions = call.options.dimensions or info.dimensions
    return collected.embeddings(served.name, info.fingerprint, dimensions, time.monotonic() - began)


def unavailable(served: Served, error: ModelUnavailable) -> ModelUnavailable:
    """Return the error of a model that is not ready, with the reason: here there is no ``/readyz`` to ask."""
    if served.state == "ready":
        return error
    return ModelUnavailable(f"{served.name} is {served.state}: {served.reason}")


def parts_of(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where parts begin and end, each of so many texts and characters at most, or of one text."""
    start = chars = 0
    for at, text in enumerate(texts):
        chars += len(text)
        if at > start and (at - start == PART or chars > PART_CHARS):
            yield start, at
            start, chars = at, len(text)
    if start < len(texts):
        yield start, len(texts)


async def _embed_part(served: Served, call: Call, start: int, end: int, collected: _Collected) -> None:
    """Embed the texts from ``start`` to ``end``: in halves if too many, later if that cannot be done now."""
    tries = 0
    refused = {at - start: call.refused[at] for at in range(start, end) if at in call.refused}
    part = call.part(cast(Texts, call.inputs[start:end]), refused)
    while True:
        try:
            result = await served.run(part)
        except TooManyTokens as error:
            if end - start == 1:
                about = error.about(f"input[{start}]")
                if not call.options.partial:
                    raise about from None
                collected.fail(start, about)
                return
            middle = (start + end) // 2
            await _embed_part(served, call, start, middle, collected)
            await _embed_part(served, call, middle, end, collected)
            return
        except Overloaded as error:  # a narrow max_queue_tokens
            await asyncio.sleep(error.retry_after or 1)
        except ModelUnavailable as error:  # other texts of these may have crashed its workers
            tries += 1
            if served.state in OVER or tries == MAX_TRIES:
                raise unavailable(served, error) from None
            await asyncio.sleep(error.retry_after or 1)
        except GatewayError as error:
            raise numbered(error, start) from None
        else:
            collected.add(start, result, end - start)
            return


def find_errors(texts: Sequence[str], limits: InputLimits) -> dict[int, GatewayError]:
    """Return what is wrong with texts before any work is done on them."""
    errors: dict[int, GatewayError] = {}
    for index, text in enumerate(texts):
        error = limits.error(text)
        if error is None and not is_unicode(text):
            error = InvalidRequest("A text must not hold lone surrogates: it is no Unicode.")
        if error is not None:
            errors[index] = error.about(f"input[{index}]")
    return errors


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def numbered(error: GatewayError, start: int) -> GatewayError:
    """Return an error about an input of a part as one about that input of all."""
    match = _INPUT.match(error.param or "")
    return error.about(f"input[{start + int(match[1])}]") if match else error
