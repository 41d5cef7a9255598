"""An object in a process of its own: made there, its methods called from here over a pipe."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from bench.run_spec import RunError

END_S = 10.0
REASON_CHARS = 300


class EngineProcess:
    """The process, with its ``pid``. One call at a time."""

    def __init__(self, make: Callable[..., object], *arguments: object, settings: Mapping[str, str]) -> None:
        """Start the process, with ``settings`` over our environment, and call ``make`` in it.

        Raises:
            RunError: the object could not be made.
        """
        spawn = multiprocessing.get_context("spawn")  # nothing of this process is in the other's memory
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        ours = dict(os.environ)
        os.environ.update(settings)
        self._process.start()
        os.environ.clear()
        os.environ.update(ours)
        theirs.close()
        self.pid = self._process.pid
        try:
            self._receive()
        except RunError:
            self.close()
            raise

    def call(self, method: str, *arguments: object) -> Any:
        """Return what a method of the object returns.

        Raises:
            RunError: the method raised an error, or the process has ended.
        """
        with suppress(BrokenPipeError):
            self._pipe.send((method, arguments))
        return self._receive()

    def close(self) -> None:
        """End the process: it ends with its pipe."""
        self._pipe.close()
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            result = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join(END_S)
            result = RunError(f"its process ended with status {self._process.exitcode}")
        if isinstance(result, RunError):
            raise result
        return result


def _serve(pipe: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.dup2(2, 1)  # standard output is for the report alone
    engine = _attempt(make, arguments)
    pipe.send(engine if isinstance(engine, RunError) else None)
    with suppress(EOFError):
        while not isinstance(engine, RunError):
            method, given = pipe.recv()
            pipe.send(_attempt(getattr(engine, method), given))


def _attempt(act: Callable[..., object], arguments: tuple[object, ...]) -> object:
    try:
        return act(*arguments)
    except Exception as error:  # whatever a library raises: the measurement goes on without this engine
        return RunError(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:REASON_CHARS]}")
