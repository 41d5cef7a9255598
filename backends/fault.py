"""The fake backend with faults: it fails on marked texts, in every way that a real engine has been seen to.

For tests of what becomes of everybody else, and to rehearse operations. A text that holds ``<abort>`` ends
the process, and so on: the names of :data:`ENGINE`, :data:`TOKENIZER` and :data:`ANSWERS` are the marks.
Configured only by its own name, and never a default.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from embeddings_gateway.backends.base import EmbedError, LoadError, TokenIds, Vectors
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.spec import FaultSpec

MARK = re.compile(r"<([a-z-]+)>")


class FaultBackend(FakeBackend):
    """The fake backend, failing on texts with a mark.

    Like careless libraries do, it quotes the text that it fails on, in exceptions and on standard error.
    """

    def __init__(self, spec: FaultSpec) -> None:
        super().__init__(spec)
        self._spec = spec
        match spec.loading:
            case "refuse":
                raise LoadError("the fault backend was told to refuse its model")
            case "abort":
                os.abort()
            case "hang":
                hang("")
            case _:
                time.sleep(spec.load_seconds)

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """See :class:`embeddings_gateway.backends.base.Backend`."""
        inputs = super().tokenize(texts)
        for text in texts:
            for mark in MARK.findall(text):
                if mark in TOKENIZER:
                    TOKENIZER[mark](text)
                elif mark == "tokenizer-short":
                    return inputs[:-1]
        return inputs

    def embed(self, batch: Sequence[TokenIds]) -> Vectors:
        """See :class:`embeddings_gateway.backends.base.Backend`."""
        spec = self._spec
        time.sleep(spec.seconds_per_token * sum(map(len, batch)))
        if spec.memory_tokens is not None and max(map(len, batch)) * len(batch) > spec.memory_tokens:
            exhaust("")
        vectors = super().embed(batch)
        if spec.loading == "wrong" and len(batch) > 1:
            vectors = vectors[::-1].copy()
        for row, ids in enumerate(batch):
            text = bytes(ids[ids < 256].tolist()).decode(errors="replace")
            for mark in MARK.findall(text):
                if mark in ENGINE:
                    ENGINE[mark](text)
                elif mark in ANSWERS:
                    vectors = ANSWERS[mark](vectors, row)
        return vectors


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
"""What happens instead of an answer to a batch with a text of this mark."""

TOKENIZER: dict[str, Callable[[str], None]] = {f"tokenizer-{mark}": act for mark, act in ENGINE.items()}
"""The same in the tokenizer; ``tokenizer-short`` gives ids of one text too few."""


def _row(value: float) -> Callable[[Vectors, int], Vectors]:
    def answer(vectors: Vectors, row: int) -> Vectors:
        vectors[row : row + 1] = value
        return vectors

    return answer


ANSWERS: dict[str, Callable[[Vectors, int], Vectors]] = {
    "nan": _row(np.nan),
    "infinite": _row(np.inf),
    "zero": _row(0.0),
    "short": lambda vectors, _: vectors[:-1],
    "long": lambda vectors, _: np.vstack([vectors, vectors[-1:]]),
    "narrow": lambda vectors, _: vectors[:, :-1],
    "order": lambda vectors, _: vectors[::-1].copy(),
}
"""What becomes of the right vectors of a batch with a text of this mark in its row."""
