"""An engine in a process of its own, seen from the measurement: commands down a pipe, answers back."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

import msgspec

from bench.engines.command import Answer, Command, Failed, Rate, Ready, Rows
from bench.plan import Load

A = TypeVar("A", Load, Rate, Ready, Rows)
END_S = 10.0
DECODER = msgspec.json.Decoder(Answer)


class EngineError(Exception):
    """An engine does not start, cannot do what it is told, or has died."""


class EngineProcess:
    """A running engine.

    Attributes:
        ready: what it says that it is.
        pid: of its process.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it is loaded.

        Raises:
            EngineError: it does not.
        """
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **(environment or {})},
        )
        self.pid = self._process.pid
        try:
            self.ready = self._receive(Ready)
        except EngineError:
            self.close()
            raise

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, command: Command, expected: type[A]) -> A:
        """Return the answer to a command.

        Raises:
            EngineError: it is another, or none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EngineError(self._last_words()) from None
        return self._receive(expected)

    def close(self) -> None:
        """End the process: it ends with its standard input."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _receive(self, expected: type[A]) -> A:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(self._last_words())
        answer = DECODER.decode(line)
        if isinstance(answer, Failed):
            raise EngineError(answer.reason)
        if not isinstance(answer, expected):
            raise EngineError(f"it answered {type(answer).__name__}")
        return answer

    def _last_words(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 500))
        said = self._log.read().decode(errors="replace").strip()
        return f"ended with status {self._process.wait(END_S)}: {said}"
