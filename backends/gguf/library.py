"""llama.cpp as a library: started once per process, and silent.

What the engine logs goes nowhere, except for the errors it reports while a model loads: they are what
tells an operator why. It knows no model and no context.
"""

from __future__ import annotations

import functools
from collections import deque

from llama_cpp import llama_cpp as llama

ERROR = 4  # GGML_LOG_LEVEL_ERROR in ggml.h; the binding has no name for it
LINES_MAX = 16


class ErrorLog:
    """The engine's error lines since the last :meth:`clear`, the oldest first, ``LINES_MAX`` at most."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        # The engine keeps a bare pointer to the callback: it must live for as long as the process.
        self._callback = llama.llama_log_callback(self._keep)
        llama.llama_log_set(self._callback, None)

    def __repr__(self) -> str:
        return f"<ErrorLog {len(self._lines)} lines>"

    def clear(self) -> None:
        """Forget what was said so far."""
        self._lines.clear()

    def reason(self) -> str:
        """Return the first error since :meth:`clear`, the one nearest to the cause, or a fixed sentence."""
        if not self._lines:
            return "llama.cpp gives no reason"
        line = self._lines[0]
        _function, separator, message = line.partition(": ")
        return message if separator else line

    def _keep(self, level: int, text: bytes, _user_data: int | None) -> None:
        if level == ERROR and text.strip():
            self._lines.append(text.decode("utf-8", "replace").strip())


@functools.cache
def start() -> ErrorLog:
    """Start llama.cpp, the first time only, and return the log of its errors."""
    log = ErrorLog()
    llama.llama_backend_init()
    return log
