"""The process of one model replica: receives calls, tokenizes, computes on one thread, and replies.

The main thread loads the model, tests it, and is the only one that computes. Meanwhile a reader thread receives
calls, answers pings, tokenizes short texts and gives longer ones to a small pool. The process ends when its
socket closes: it never outlives its gateway.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO

import numpy as np

from embeddings_gateway.backends.base import (
    Backend,
    BackendError,
    Batch,
    EmbedError,
    LoadError,
    OutOfMemory,
    Part,
)
from embeddings_gateway.backends.load import load
from embeddings_gateway.backends.loaded_files import LoadedFiles
from embeddings_gateway.backends.messages import (
    HEADER,
    Cancel,
    Check,
    Checked,
    Failed,
    FromWorker,
    Outdated,
    PackedBatch,
    PackedColumn,
    Ping,
    Pong,
    ProtocolError,
    Ran,
    Ready,
    Refused,
    Run,
    Start,
    Tokenize,
    Tokens,
    ToWorker,
    decode_to_worker,
    encode_frame,
    payload_length,
)
from embeddings_gateway.backends.own_process import (
    confine,
    end_with_parent,
    ending_with_peer,
    name_temporary_folder,
    name_user,
)
from embeddings_gateway.backends.redact import without_secrets
from embeddings_gateway.backends.selftest import SelfTest

TOKENIZER_THREADS = 2
CHARS_AT_ONCE = 1024  # to hand so few to another thread takes longer than to tokenize them
FILES_INTERVAL_S = 1.0  # they are looked at after each batch as well
STACK_BYTES = 16 << 20  # tokenizers that split by regular expressions recurse on long runs of characters


class WorkerMain:
    """One model replica behind one socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._send_lock = threading.Lock()
        self._batches: queue.SimpleQueue[Run | Check] = queue.SimpleQueue()
        self._tokenizers = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenize")
        self._tokenizing: dict[int, Future[None]] = {}  # of the calls that the pool has
        self._busy_since: float | None = None
        self._files = LoadedFiles(())

    def run(self) -> None:
        """Load the model, then compute batches until the process ends."""
        frames = self._channel.makefile("rb")
        start = receive(frames)
        if start is None:
            return
        if not isinstance(start, Start):
            raise ProtocolError("the first frame is not a Start")
        began = time.perf_counter()
        try:
            with ending_with_peer(self._channel):
                backend = load(start.spec)
                self._files = LoadedFiles(backend.files)
                test = SelfTest(backend)
                if problem := test.run():
                    raise LoadError(f"not to be served: {problem}")
        except LoadError as error:
            self._send(Refused(without_secrets(str(error))))
            return
        speed = test.tokens_per_s()
        threading.Thread(target=self._read, args=(frames, backend), daemon=True, name="reader").start()
        threading.Thread(target=self._watch_files, daemon=True, name="files").start()
        reference = {output: PackedColumn.of(column) for output, column in test.reference.items()}
        self._send(Ready(backend.info, time.perf_counter() - began, speed, reference))
        while True:
            match self._batches.get():
                case Run() as call:
                    self._compute(backend, call)
                case Check(id=call_id, brief=brief):
                    self._check(call_id, test, brief=brief)

    def _read(self, frames: IO[bytes], backend: Backend) -> None:
        """Receive calls until the gateway is gone; then end the process, whatever it computes."""
        try:
            while (message := receive(frames)) is not None:
                self._answer(message, backend)
        except Exception as error:  # a malformed frame, or a socket closed on replies that nobody read
            report(error)
            os._exit(1)
        os._exit(0)

    def _answer(self, message: ToWorker, backend: Backend) -> None:
        match message:
            case Run() | Check():
                self._batches.put(message)
            case Tokenize(texts=texts, text_pairs=pairs):
                if sum(map(len, texts)) + sum(map(len, pairs or ())) < CHARS_AT_ONCE:
                    self._tokenize(backend, message)
                else:
                    future = self._tokenizing[message.id] = self._tokenizers.submit(
                        self._tokenize, backend, message
                    )
                    future.add_done_callback(lambda _: self._tokenizing.pop(message.id))
            case Cancel(id=call_id):
                queued = self._tokenizing.get(call_id)
                if queued is not None and queued.cancel():
                    self._send(Failed(call_id, "cancelled"))
            case Ping():
                since = self._busy_since
                self._send(Pong(message.id, 0.0 if since is None else time.monotonic() - since))

    def _compute(self, backend: Backend, call: Run) -> None:
        began = self._busy_since = time.monotonic()
        with self._report_failure(call.id):
            columns = backend.run(call.batch.unpack(), call.outputs)
            if not self._outdated():
                self._send(Ran.of(call.id, columns, time.monotonic() - began))
        self._busy_since = None

    def _check(self, call_id: int, test: SelfTest, *, brief: bool) -> None:
        with self._report_failure(call_id):
            self._send(Checked(call_id, test.run_first() if brief else test.run()))

    def _tokenize(self, backend: Backend, call: Tokenize) -> None:
        with self._report_failure(call.id):
            if call.part is None:
                batch, declined = tokenize(backend, call.texts, call.text_pairs)
                self._send(Tokens(call.id, PackedBatch.of(batch), declined))
            else:
                self._send(tokenize_part(backend, call.id, call.texts[0], call.part))

    def _watch_files(self) -> None:
        """Look at the files now and then. On a thread of its own: a disk that hangs hangs nothing else."""
        while not self._outdated():
            time.sleep(FILES_INTERVAL_S)

    def _outdated(self) -> bool:
        """Return whether a file has been changed since it was loaded; if so, tell the gateway."""
        if file := self._files.changed():
            self._send(Outdated(file))
        return bool(file)

    @contextmanager
    def _report_failure(self, call_id: int) -> Iterator[None]:
        """Reply ``Failed`` to a call whose work raises anything: native code raises more than exceptions."""
        try:
            yield
        except BaseException as error:
            self._send(Failed(call_id, report(error), isinstance(error, MemoryError | OutOfMemory)))

    def _send(self, message: FromWorker) -> None:
        with self._send_lock:
            self._channel.sendall(encode_frame(message))


def tokenize(
    backend: Backend, texts: list[str], text_pairs: list[str] | None
) -> tuple[Batch, dict[int, str]]:
    """Return the ids of each text, and why the tokenizer declines some of them; these have no ids."""
    try:
        return backend.tokenize(texts, text_pairs), {}
    except OutOfMemory:
        raise
    except EmbedError as error:
        if len(texts) == 1:
            return Batch.of([np.empty(0, np.int32)]), {0: str(error)}
    batches: list[Batch] = []
    declined: dict[int, str] = {}
    for index, text in enumerate(texts):
        batch, reasons = tokenize(backend, [text], None if text_pairs is None else [text_pairs[index]])
        batches.append(batch)
        if reasons:
            declined[index] = reasons[0]
    return Batch.concat(batches), declined


def tokenize_part(backend: Backend, call_id: int, text: str, part: Part) -> Tokens:
    """Return the ids of a part of a text, or why the tokenizer declines it."""
    try:
        ids, begin, end = backend.tokenize_part(text, part)
    except OutOfMemory:
        raise
    except EmbedError as error:
        return Tokens(call_id, PackedBatch.of(Batch.of([np.empty(0, np.int32)])), {0: str(error)})
    return Tokens(call_id, PackedBatch.of(Batch.of([ids])), {}, (begin, end))


def receive(frames: IO[bytes]) -> ToWorker | None:
    """Read one message, or ``None`` when the gateway has gone."""
    header = frames.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length = payload_length(header)
    payload = frames.read(length)
    return decode_to_worker(payload) if len(payload) == length else None


def report(error: BaseException) -> str:
    """Return what failed, without a user's text. Print where, unless the error is a backend's own.

    Of other errors only the class is returned: their messages may quote a text.
    """
    if isinstance(error, BackendError):
        return str(error)
    frames = "".join(traceback.format_tb(error.__traceback__))
    print(f"{type(error).__name__}\n{frames}", file=sys.stderr, flush=True)  # noqa: T201 - read by the gateway
    return type(error).__name__


def main() -> None:
    """Run the worker; the arguments are the descriptor of its socket and its parent's process id."""
    channel, parent = map(int, sys.argv[1:])
    end_with_parent(parent)
    confine()
    name_user()
    name_temporary_folder()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's to handle
    threading.stack_size(STACK_BYTES)
    faulthandler.enable()  # says in which function a crash was
    WorkerMain(socket.socket(fileno=channel)).run()


if __name__ == "__main__":
    main()
