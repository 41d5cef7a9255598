"""The fake backend with faults: it fails on marked texts, in every way that real engines fail.

For tests of what happens to other requests, and to rehearse operations. A text that holds ``<abort>`` ends
the process, and so on: the names of :data:`ENGINE`, :data:`TOKENIZER` and :data:`COLUMNS` are the marks.
It is configured by its own name only, and never a default.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from embeddings_gateway.backends.base import Batch, Column, EmbedError, LoadError, Output
from embeddings_gateway.backends.fake import BEGIN, FakeBackend
from embeddings_gateway.backends.spec import FaultSpec

MARK = re.compile(r"<([a-z-]+)>")


class FaultBackend(FakeBackend):
    """The fake backend, failing on texts with a mark.

    It quotes the text that it fails on, in exceptions and on standard error, as careless libraries do.
    """

    def __init__(self, spec: FaultSpec) -> None:
        super().__init__(spec)
        self._faults = spec
        match spec.loading:
            case "refuse":
                raise LoadError("the fault backend is configured to refuse its model")
            case "abort":
                os.abort()
            case "hang":
                hang("")
            case _:
                time.sleep(spec.load_seconds)

    def tokenize(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> Batch:
        """See :class:`embeddings_gateway.backends.base.Backend`."""
        batch = super().tokenize(texts, text_pairs)
        for text in (*texts, *(text_pairs or ())):
            for mark in MARK.findall(text):
                if mark in TOKENIZER:
                    TOKENIZER[mark](text)
                elif mark == "tokenizer-short":
                    return batch.select(np.arange(len(batch) - 1))
        return batch

    def run(self, batch: Batch, outputs: Sequence[Output]) -> dict[Output, Column]:
        """See :class:`embeddings_gateway.backends.base.Backend`."""
        spec = self._faults
        time.sleep(spec.seconds_per_token * batch.tokens)
        if spec.memory_tokens is not None and batch.lengths.max() * len(batch) > spec.memory_tokens:
            exhaust("")
        columns = super().run(batch, outputs)
        if spec.loading == "wrong" and len(batch) > 1:
            columns = {output: reverse(column, 0) for output, column in columns.items()}
        for i, ids in enumerate(batch.split()):
            text = bytes(ids[ids < BEGIN].tolist()).decode(errors="replace")
            for mark in MARK.findall(text):
                if mark in ENGINE:
                    ENGINE[mark](text)
                elif mark in COLUMNS:
                    columns = {output: COLUMNS[mark](column, i) for output, column in columns.items()}
        return columns


def abort(text: str) -> None:
    """End as a failed assertion in native code does."""
    print(f"assertion failed on {text}", file=sys.stderr, flush=True)  # noqa: T201 - libraries do so
    os.abort()


def crash(text: str) -> None:
    """End as an access to memory that is not there does."""
    print(f"about to read beyond {text}", file=sys.stderr, flush=True)  # noqa: T201 - libraries do so
    ctypes.string_at(0)


def leave(_text: str) -> None:
    """End with a status."""
    os._exit(3)


def hang(_text: str) -> None:
    """Never return; the rest of the process goes on."""
    threading.Event().wait()


def freeze(_text: str) -> None:
    """Stop the whole process; it does not even answer a ping."""
    os.kill(os.getpid(), signal.SIGSTOP)
    hang("")  # this thread may be the last that the signal reaches


def exhaust(_text: str) -> None:
    """Ask for more memory than there is."""
    bytearray(sys.maxsize)


def fail(text: str) -> None:
    """Raise."""
    raise RuntimeError(f"cannot compute {text}")


def decline(_text: str) -> None:
    """Raise an error of the backend's own."""
    raise EmbedError("the engine declines this")


ENGINE: dict[str, Callable[[str], None]] = {
    "abort": abort,
    "crash": crash,
    "exit": leave,
    "hang": hang,
    "freeze": freeze,
    "memory": exhaust,
    "raise": fail,
    "decline": decline,
}
"""What happens instead of a result for a batch with a text of this mark."""

TOKENIZER: dict[str, Callable[[str], None]] = {f"tokenizer-{mark}": act for mark, act in ENGINE.items()}
"""The same in the tokenizer; ``tokenizer-short`` gives ids of one text too few."""


def fill(value: float) -> Callable[[Column, int], Column]:
    """Return a function that puts ``value`` into every number of one input."""

    def filled(column: Column, i: int) -> Column:
        start, stop = (i, i + 1) if column.offsets is None else column.offsets[i : i + 2]
        values = column.values.copy()
        values[start:stop] = value
        return dataclasses.replace(column, values=values)

    return filled


def shorten(column: Column, _i: int) -> Column:
    """Leave out the last input."""
    return column.select(np.arange(len(column) - 1))


def lengthen(column: Column, _i: int) -> Column:
    """Give the last input twice."""
    return column.select(np.minimum(np.arange(len(column) + 1), len(column) - 1))


def reverse(column: Column, _i: int) -> Column:
    """Give the inputs in the reverse order."""
    return column.select(np.arange(len(column))[::-1])


def narrow(column: Column, _i: int) -> Column:
    """Give rows of one number less, or of one more where they have only one."""
    values = column.values
    return dataclasses.replace(
        column, values=values[:, :-1] if values.shape[1] > 1 else values.repeat(2, axis=1)
    )


COLUMNS: dict[str, Callable[[Column, int], Column]] = {
    "nan": fill(np.nan),
    "infinite": fill(np.inf),
    "zero": fill(0.0),
    "short": shorten,
    "long": lengthen,
    "narrow": narrow,
    "order": reverse,
}
"""What happens to every right column of a batch whose input ``i`` has this mark."""
