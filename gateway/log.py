"""Logging of our events, and of what libraries log.

A process that serves writes both to standard error, as JSON or for a terminal; :func:`configure` sets that up. Before,
our events go to the standard library's logging, and the application decides. They never pass an application's own
structlog processors: those may print tracebacks with texts in them. A handler that waits holds up no caller: a thread
of ours calls it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor

from embeddings_gateway.backends.redact import without_secrets
from embeddings_gateway.background import Background, BackgroundFile

Logger = FilteringBoundLogger

NAME = "embeddings_gateway"
"""The logger of the standard library that receives our events."""

MAX_REPEATED = 20
"""Warnings and errors of one kind that are logged in an interval; clients can cause any number."""
INTERVAL_S = 10.0
MAX_KINDS = 1000


def get_logger() -> Logger:
    """Return a logger for our events."""
    logger: Logger = structlog.wrap_logger(
        _output,
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return logger


def configure(form: Literal["auto", "json", "console"], level: str) -> None:
    """Set up logging for the process.

    Args:
        form: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
        level: the least severe event that is logged.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    stamped: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shared = [*stamped, without_messages, redact]
    render: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer(serializer=as_json)
    )
    _processors[:] = [at_least(level), RateLimit(), *shared, render]
    _output.logger = LineWriter(sys.stderr)
    if isinstance(file := sys.stderr.buffer, BackgroundFile):
        file.output.describe = partial(dropped_event, [*stamped, render])
    _output.json_level = None if console else logging.getLevelNamesMapping()[level.upper()]
    logging.raiseExceptions = False  # a line of a library that cannot be written is lost, as one of ours
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    handler.addFilter(RateLimit().admits_record)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def flush(timeout_s: float) -> bool:
    """Wait until the application's logging has all our events, or the time is over; return whether it has them."""
    return bool(_output.logger.flush(timeout_s))


def log_request(level: Literal["debug", "info"], event: dict[str, Any]) -> None:
    """Log the event ``request``. It is frequent, so JSON is written at once, without the processors."""
    if _output.json_level is None:
        getattr(_log, level)("request", **event)
    elif _output.json_level <= (logging.INFO if level == "info" else logging.DEBUG):
        event |= {"event": "request", "level": level, "timestamp": datetime.now(UTC)}
        _output.logger.write_json(event)


class RateLimit:
    """A structlog processor that drops warnings and errors of a kind that are too many. The next one says how many."""

    def __init__(self) -> None:
        self._began: dict[object, float] = {}  # kind -> when its interval began
        self._seen: dict[object, int] = {}  # kind -> events since then

    def __call__(
        self, _logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Let an event pass, with ``suppressed`` if others did not."""
        if method in ("debug", "info"):
            return event
        suppressed = self.count((event["event"], event.get("model")), time.monotonic())
        if suppressed is None:
            raise structlog.DropEvent
        if suppressed:
            event["suppressed"] = suppressed
        return event

    def admits_record(self, record: logging.LogRecord) -> bool:
        """Return whether a library's record may be logged: each place in its code is a kind."""
        return self.count((record.name, record.pathname, record.lineno), time.monotonic()) is not None

    def count(self, kind: object, now: float) -> int | None:
        """Count an event; return how many before it were suppressed, or ``None`` if it is suppressed itself."""
        if now - self._began.get(kind, -INTERVAL_S) < INTERVAL_S:
            seen = self._seen[kind] = self._seen.get(kind, 0) + 1  # another thread may have cleared it
            return 0 if seen <= MAX_REPEATED else None
        suppressed = max(0, self._seen.get(kind, 0) - MAX_REPEATED)
        if len(self._began) >= MAX_KINDS:
            self._began.clear()
            self._seen.clear()
        self._began[kind], self._seen[kind] = now, 1
        return suppressed


class LineWriter:
    """Writes lines to a stream. A line that cannot be written is lost: a full disk must not stop the gateway."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        """Write a line."""
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def write_json(self, event: dict[str, Any]) -> None:
        """Write an event of plain values."""
        with suppress(OSError, ValueError):
            self._stream.buffer.write(
                orjson.dumps(event, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
            )
            self._stream.buffer.flush()

    debug = info = warning = error = critical = write


def at_least(level: str) -> Processor:
    """Return a processor that drops less severe events."""
    levels = logging.getLevelNamesMapping()
    least = levels[level.upper()]

    def drop(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if levels[method.upper()] < least:
            raise structlog.DropEvent
        return event

    return drop


def as_json(event: MutableMapping[str, Any], default: Callable[[Any], Any]) -> str:
    """Return an event as JSON. The standard library writes what orjson refuses, such as lone surrogates."""
    try:
        return orjson.dumps(event, default=default).decode()
    except TypeError:
        return json.dumps(event, default=default)


def without_messages(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace an exception by its traceback and class: its message may quote a user's text."""
    exc_info = event.pop("exc_info", None)
    if isinstance(exc_info, tuple):  # from the standard library's logging
        exc_info = exc_info[1]
    error = sys.exc_info()[1] if exc_info is True else exc_info
    if isinstance(error, BaseException):
        frames = "".join(traceback.format_tb(error.__traceback__))
        event["exception"] = f"{frames}{type(error).__name__}"
    return event


def dropped_event(processors: Sequence[Any], lines: int) -> bytes:
    """Return the line of the log that says how many were dropped."""
    event: Any = {"event": "lines dropped", "lines": lines}
    for processor in processors:
        event = processor(None, "warning", event)
    return f"{event}\n".encode()


class ApplicationLogger:
    """Hands our events to the application's logging, in the background."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._events = Background[tuple[str, str]](
            self._log_all, lambda event: len(event[1]), lambda lines: ("warning", f"({lines} events dropped)")
        )
        self.flush = self._events.flush
        for method in ("debug", "info", "warning", "error", "critical"):
            setattr(self, method, partial(self._put, method))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)  # what structlog asks, such as its level

    def _put(self, method: str, event: str) -> None:
        self._events.put((method, event))

    def _log_all(self, events: Sequence[tuple[str, str]]) -> None:
        for method, event in events:
            with suppress(Exception):
                getattr(self._logger, method)(event)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of an event: libraries quote addresses and headers."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = without_secrets(value)
    return event


class _Output:
    """The output that all our loggers share.

    Attributes:
        logger: has a method for each level.
        json_level: the least severe level of events that are written as JSON; ``None`` if the form is another.
    """

    def __init__(self) -> None:
        self.logger: Any = ApplicationLogger(logging.getLogger(NAME))
        self.json_level: int | None = None

    def __getattr__(self, method: str) -> Any:
        return getattr(self.logger, method)


_output = _Output()
_processors: list[Processor] = [  # all our loggers share this list; ``configure`` replaces its items
    structlog.stdlib.filter_by_level,
    RateLimit(),
    without_messages,
    redact,
    structlog.processors.KeyValueRenderer(key_order=["event"]),
]
_log = get_logger()
