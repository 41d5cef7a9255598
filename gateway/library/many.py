"""Embeds any number of texts: divides them into requests, and runs a few at a time to keep workers busy."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np

from embeddings_gateway import errors
from embeddings_gateway.errors import GatewayError, ModelUnavailable
from embeddings_gateway.library.embeddings import Embeddings
from embeddings_gateway.serving.served import Call, InputLimits, Result, Served, Texts

MAX_PART_TEXTS = 256
MAX_PART_CHARS = 500_000
PARTS_AT_ONCE = 4
MAX_TRIES = 24  # of a part while its model restarts, a few seconds apart

Progress = Callable[[int, int], object]
"""Is called with the numbers of texts that are done, and of all."""

_INPUT = re.compile(r"^input\[(\d+)\]$")


class _Collected:
    """The results so far.

    Args:
        texts: number of all texts.
        dimensions: of a vector.
        progress: is called after each part.
    """

    def __init__(self, texts: int, dimensions: int, progress: Progress | None) -> None:
        self._vectors = np.full((texts, dimensions), np.nan, np.float32)
        self._errors: dict[int, GatewayError] = {}
        self._truncated: list[int] = []
        self._averaged: list[int] = []
        self._prompt: str | None = None
        self._tokens = 0
        self._done = 0
        self._progress = progress

    def add(self, start: int, result: Result, texts: int) -> None:
        """Add the result of a part, which begins at text ``start``."""
        rows = np.setdiff1d(np.arange(texts), list(result.errors))
        if len(rows):
            self._vectors[start + rows] = result.vectors[rows]
        self._errors |= {start + index: renumbered(error, start) for index, error in result.errors.items()}
        self._truncated += (start + index for index in result.truncated)
        self._averaged += (start + index for index in result.averaged)
        self._prompt = result.prompt
        self._tokens += result.tokens
        self._count(texts)

    def fail(self, text: int, error: GatewayError) -> None:
        """Add the error of a text that is too long for any request."""
        self._errors[text] = error
        self._count(1)

    def embeddings(self, model: str, fingerprint: str, seconds: float) -> Embeddings:
        """Return all results.

        Raises:
            InternalError: a text has neither a vector nor an error.
        """
        if self._done != len(self._vectors):
            raise errors.InternalError
        return Embeddings(
            vectors=self._vectors,
            errors=dict(sorted(self._errors.items())),
            model=model,
            space=fingerprint,
            prompt=self._prompt,
            tokens=self._tokens,
            truncated=sorted(self._truncated),
            averaged=sorted(self._averaged),
            seconds=seconds,
        )

    def _count(self, texts: int) -> None:
        self._done += texts
        if self._progress is not None:
            self._progress(self._done, len(self._vectors))


async def embed_many(
    served: Served, call: Call, limits: InputLimits, progress: Progress | None
) -> Embeddings:
    """Embed the texts of ``call``, however many there are.

    Args:
        served: the model; the first attempt to load it is awaited.
        call: asks for dense vectors of texts.
        limits: limits on one text.
        progress: is called in the event loop.

    Raises:
        GatewayError: a text cannot be embedded, and ``partial`` is false; or the model is unavailable.
    """
    await served.first_attempt()
    try:
        info = served.check(call)
    except ModelUnavailable as error:
        raise unavailable(served, error) from None
    began = time.monotonic()
    texts = cast(Texts, call.inputs)
    refused = find_errors(texts, limits)
    if refused and not call.options.partial:
        raise refused[min(refused)]
    call = call.part(texts, refused)
    collected = _Collected(len(texts), info.dimensions_for(call.options.dimensions), progress)
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
    return collected.embeddings(served.name, info.fingerprint, time.monotonic() - began)


def unavailable(served: Served, error: ModelUnavailable) -> ModelUnavailable:
    """Return the error with the reason, if the model is not ready: the caller has no ``/readyz`` to ask."""
    if served.state == "ready":
        return error
    return ModelUnavailable(f"{served.name} is {served.state}: {served.reason}")


def parts_of(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each part: 256 texts and 500,000 characters at most, but at least one text."""
    start = chars = 0
    for index, text in enumerate(texts):
        chars += len(text)
        if index > start and (index - start == MAX_PART_TEXTS or chars > MAX_PART_CHARS):
            yield start, index
            start, chars = index, len(text)
    if start < len(texts):
        yield start, len(texts)


async def _embed_part(served: Served, call: Call, start: int, end: int, collected: _Collected) -> None:
    """Embed the texts from ``start`` to ``end``: in halves if they are too many, again if the model is busy."""
    tries = 0
    refused = {index - start: call.refused[index] for index in range(start, end) if index in call.refused}
    part = call.part(cast(Texts, call.inputs[start:end]), refused)
    while True:
        try:
            result = await served.run(part)
        except errors.TooManyTokens as error:
            if end - start == 1:
                too_long = error.about(f"input[{start}]")
                if not call.options.partial:
                    raise too_long from None
                collected.fail(start, too_long)
                return
            middle = (start + end) // 2
            await _embed_part(served, call, start, middle, collected)
            await _embed_part(served, call, middle, end, collected)
            return
        except errors.Overloaded as error:  # max_queue_tokens is small
            await asyncio.sleep(error.retry_after or 1)
        except ModelUnavailable as error:  # its workers restart: other texts may have crashed them
            tries += 1
            if served.state in ("failed", "stopped") or tries == MAX_TRIES:
                raise unavailable(served, error) from None
            await asyncio.sleep(error.retry_after or 1)
        except GatewayError as error:
            raise renumbered(error, start) from None
        else:
            collected.add(start, result, end - start)
            return


def find_errors(texts: Sequence[str], limits: InputLimits) -> dict[int, GatewayError]:
    """Return the errors of texts that can be refused without the model."""
    refused: dict[int, GatewayError] = {}
    for index, text in enumerate(texts):
        error = limits.error(text)
        if error is None and not is_unicode(text):
            error = errors.InvalidRequest("A text must not hold lone surrogates: it is no Unicode.")
        if error is not None:
            refused[index] = error.about(f"input[{index}]")
    return refused


def is_unicode(text: str) -> bool:
    """Return whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def renumbered(error: GatewayError, start: int) -> GatewayError:
    """Return an error about an input of a part, with the input's index among all texts."""
    match = _INPUT.match(error.param or "")
    return error.about(f"input[{start + int(match[1])}]") if match else error
