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
from embeddings_gateway.serving.ask import Answer, Ask, InputLimits, Texts, fault_of
from embeddings_gateway.serving.model import Model

PART = 256
PART_CHARS = 500_000
PARTS_AT_ONCE = 4

Progress = Callable[[int, int], object]
"""Is told how many texts are done, and how many there are."""

TRIES_MAX = 24
"""How often a model that is being started again is asked, every few seconds, before a call gives it up."""

_INPUT = re.compile(r"^input\[(\d+)\]$")


class Gathered:
    """What has come of the texts so far.

    Args:
        texts: how many there are.
        dimensions: of a vector.
        progress: is told of every part that is done.
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

    def add(self, start: int, answer: Answer) -> None:
        """Take the answer for the texts from ``start`` on."""
        there = np.setdiff1d(np.arange(len(answer.vectors)), list(answer.errors))
        self._vectors[start + there] = answer.vectors[there]
        self._errors |= {start + place: numbered(error, start) for place, error in answer.errors.items()}
        self._truncated += (start + place for place in answer.truncated)
        self._averaged += (start + place for place in answer.averaged)
        self._prompt = answer.prompt
        self._tokens += answer.tokens
        self._count(len(answer.vectors))

    def fail(self, text: int, error: GatewayError) -> None:
        """Take the error of a text that no request could have."""
        self._errors[text] = error
        self._count(1)

    def _count(self, texts: int) -> None:
        self._done += texts
        if self._progress is not None:
            self._progress(self._done, len(self._vectors))

    def embeddings(self, model: str, space: str, seconds: float) -> Embeddings:
        """Return all of it.

        Raises:
            InternalError: something is missing.
        """
        if self._done != len(self._vectors):
            raise InternalError
        return Embeddings(
            vectors=self._vectors,
            errors=dict(sorted(self._errors.items())),
            model=model,
            space=space,
            prompt=self._prompt,
            tokens=self._tokens,
            truncated=sorted(self._truncated),
            averaged=sorted(self._averaged),
            seconds=seconds,
        )


async def embed_many(model: Model, ask: Ask, limits: InputLimits, progress: Progress | None) -> Embeddings:
    """Embed the texts of ``ask``, of which there may be any number.

    Args:
        model: it is loaded.
        ask: for texts.
        limits: bounds on one of them.
        progress: is called in the event loop.

    Raises:
        GatewayError: one of them cannot be embedded, and ``partial`` is false; or none can now.
    """
    try:
        info = model.info_for(ask)
    except ModelUnavailable as error:
        raise unavailable(model, error) from None
    began = time.monotonic()
    refused = faults(cast(Texts, ask.inputs), limits)
    if refused and not ask.partial:
        raise refused[min(refused)]
    ask = ask._replace(refused=refused)
    gathered = Gathered(len(ask.inputs), ask.dimensions or info.dimensions, progress)
    parts = parts_of(cast(Texts, ask.inputs))

    async def work() -> None:
        for start, end in parts:
            await _embed_part(model, ask, start, end, gathered)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(PARTS_AT_ONCE):
                tasks.create_task(work())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return gathered.embeddings(model.name, info.fingerprint, time.monotonic() - began)


def unavailable(model: Model, error: ModelUnavailable) -> ModelUnavailable:
    """Return the error of a model that is not there with the reason, which here nobody else can be asked."""
    replicas = model.replicas
    if replicas.state == "ready":
        return error
    return ModelUnavailable(f"{model.name} is {replicas.state}: {replicas.reason}")


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


async def _embed_part(model: Model, ask: Ask, start: int, end: int, gathered: Gathered) -> None:
    """Embed the texts from ``start`` to ``end``: in halves if too many, later if that cannot be done now."""
    tries = 0
    refused = {at - start: ask.refused[at] for at in range(start, end) if at in ask.refused}
    while True:
        try:
            answer = await model.embed(ask._replace(inputs=ask.inputs[start:end], refused=refused))
        except TooManyTokens as error:
            if end - start == 1 and ask.partial:
                gathered.fail(start, error.about(f"input[{start}]"))
                return
            if end - start == 1:
                raise error.about(f"input[{start}]") from None
            middle = (start + end) // 2
            await _embed_part(model, ask, start, middle, gathered)
            await _embed_part(model, ask, middle, end, gathered)
            return
        except Overloaded as error:  # a narrow max_queue_tokens
            await asyncio.sleep(error.retry_after or 1)
        except ModelUnavailable as error:  # others of these texts may have ended its workers
            tries += 1
            if model.replicas.over or tries == TRIES_MAX:
                raise unavailable(model, error) from None
            await asyncio.sleep(error.retry_after or 1)
        except GatewayError as error:
            raise numbered(error, start) from None
        else:
            gathered.add(start, answer)
            return


def faults(texts: Sequence[str], limits: InputLimits) -> dict[int, GatewayError]:
    """Return what is wrong with texts before anything is done with them."""
    found: dict[int, GatewayError] = {}
    for index, text in enumerate(texts):
        fault = fault_of(text, limits)
        if fault is None and not is_unicode(text):
            fault = InvalidRequest("A text must not hold lone surrogates: it is no Unicode.")
        if fault is not None:
            found[index] = fault.about(f"input[{index}]")
    return found


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def numbered(error: GatewayError, start: int) -> GatewayError:
    """Return an error about an input of a part as one about that input of all."""
    found = _INPUT.match(error.param or "")
    return error.about(f"input[{start + int(found[1])}]") if found else error
