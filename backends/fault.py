"""The fake backend with faults: it fails on marked texts, in every way that real engines fail.

For tests of what happens to other requests, and to rehearse operations. A text that holds ``<abort>`` ends
the process, and so on: :func:`fail` and :func:`spoil` have the marks. ``<tokenizer-abort>`` ends it in the
tokenizer. It is configured by its own name only, and never a default.
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
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from embeddings_gateway.backends import checksum
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
        if spec.loading == "refuse":
            raise LoadError("the fault backend is configured to refuse its model")
        if spec.loading in ("abort", "hang"):
            fail(spec.loading, "")
        if spec.file is not None:
            self.files = (Path(spec.file),)
            self.info = msgspec.structs.replace(self.info, fingerprint=checksum.sha256(Path(spec.file))[:16])
        time.sleep(spec.load_seconds)

    def tokenize(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> Batch:
        """Tokenize, but fail on marked texts; ``<tokenizer-short>`` gives one input too few."""
        batch = super().tokenize(texts, text_pairs)
        for text in (*texts, *(text_pairs or ())):
            for mark in MARK.findall(text):
                if mark == "tokenizer-short":
                    return batch.part(0, len(batch) - 1)
                if mark.startswith("tokenizer-"):
                    fail(mark.removeprefix("tokenizer-"), text)
        return batch

    def run(self, batch: Batch, outputs: Sequence[Output]) -> dict[Output, Column]:
        """Compute, but fail on marked texts, or spoil the outputs."""
        spec = self._faults
        time.sleep(spec.seconds_per_token * batch.tokens)
        if spec.memory_tokens is not None and batch.lengths.max() * len(batch) > spec.memory_tokens:
            fail("memory", "")
        columns = super().run(batch, outputs)
        if spec.loading == "wrong" and len(batch) > 1:
            columns = {output: spoil("order", column, 0) for output, column in columns.items()}
        for i, ids in enumerate(batch.split()):
            text = bytes(ids[ids < BEGIN].tolist()).decode(errors="replace")
            for mark in MARK.findall(text):
                fail(mark, text)
                columns = {output: spoil(mark, column, i) for output, column in columns.items()}
        return columns


def fail(mark: str, text: str) -> None:
    """Fail in the way of this mark; do nothing for any other word."""
    match mark:
        case "abort":  # as a failed assertion in native code does
            print(f"assertion failed on {text}", file=sys.stderr, flush=True)  # noqa: T201 - libraries do so
            os.abort()
        case "crash":  # as an access to memory that is not there does
            print(f"about to read beyond {text}", file=sys.stderr, flush=True)  # noqa: T201 - libraries do so
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "hang":  # the rest of the process goes on
            threading.Event().wait()
        case "freeze":  # the process does not even answer a ping
            os.kill(os.getpid(), signal.SIGSTOP)
            threading.Event().wait()  # this thread may be the last that the signal reaches
        case "memory":
            bytearray(sys.maxsize)
        case "raise":
            raise RuntimeError(f"cannot compute {text}")
        case "decline":
            raise EmbedError("the engine declines this")


def spoil(mark: str, column: Column, i: int) -> Column:
    """Return a right column of a batch made wrong in the way of this mark, which input ``i`` has."""
    count, values = len(column), column.values.copy()
    match mark:
        case "nan" | "infinite" | "zero":
            start, stop = (i, i + 1) if column.offsets is None else column.offsets[i : i + 2]
            values[start:stop] = {"nan": np.nan, "infinite": np.inf, "zero": 0.0}[mark]
            return dataclasses.replace(column, values=values)
        case "short":  # without the last input
            return column.part(0, count - 1)
        case "long":  # the last input twice
            return column.select(np.minimum(np.arange(count + 1), count - 1))
        case "order":
            return column.select(np.arange(count)[::-1])
        case "narrow":  # one number less in each row, or one more where there is only one
            narrow = values[:, :-1] if values.shape[1] > 1 else values.repeat(2, axis=1)
            return dataclasses.replace(column, values=narrow)
    return column
