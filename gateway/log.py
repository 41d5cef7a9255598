"""Logging: our events, and what libraries log.

A process that serves writes both to standard error, as JSON or for a terminal. Until :func:`configure` has
said so, our events go to the standard library's logging, for an application to do with as it likes. What an
application has made of structlog does not concern them: its processors may show a trace with texts in it.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor

Logger = FilteringBoundLogger

NAME = "embeddings_gateway"
"""The logger of the standard library that our events go to."""

EVERY_LEVEL = structlog.make_filtering_bound_logger(logging.NOTSET)


def get_logger() -> Logger:
    """Return a logger for our events."""
    logger: Logger = structlog.wrap_logger(
        _output,
        processors=_processors,
        wrapper_class=EVERY_LEVEL,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return logger


def configure(form: Literal["auto", "json", "console"], level: str) -> None:
    """Set logging up for the process.

    Args:
        form: ``auto`` is ``console`` on a terminal, else ``json``.
        level: the least severe event that is logged.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        without_messages,
    ]
    render: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer(serializer=as_json)
    )
    _processors[:] = [at_least(level), *shared, render]
    _output.logger = Lines(sys.stderr)
    _output.json_level = None if console else logging.getLevelNamesMapping()[level.upper()]
    logging.raiseExceptions = False  # nor does what libraries log
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def log_request(level: Literal["debug", "info"], event: dict[str, Any]) -> None:
    """Log the event ``request``. It is frequent, so where lines are JSON it is written without a pipeline."""
    if _output.json_level is None:
        getattr(_log, level)("request", **event)
    elif _output.json_level <= (logging.INFO if level == "info" else logging.DEBUG):
        event |= {"event": "request", "level": level, "timestamp": datetime.now(UTC)}
        _output.logger.write_json(event)


class Lines:
    """Writes lines, each as one. One that cannot be written is lost, and what it was about goes on.

    Args:
        stream: a terminal may go away, a disk may be full, who reads a pipe may have ended.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        """Write a line."""
        with suppress(OSError, ValueError):  # the latter of a stream that is closed
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
    """Return what drops the events that are less severe."""
    levels = logging.getLevelNamesMapping()
    least = levels[level.upper()]

    def drop(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if levels[method.upper()] < least:
            raise structlog.DropEvent
        return event

    return drop


def as_json(event: MutableMapping[str, Any], default: Callable[[Any], Any]) -> str:
    """Write an event as JSON: quickly, or else with what orjson refuses, such as lone surrogates."""
    try:
        return orjson.dumps(event, default=default).decode()
    except TypeError:
        return json.dumps(event, default=default)


def without_messages(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write an exception as its kind and where it was raised: a message may quote what a user sent."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given is True else None
    if isinstance(given, tuple):  # as the standard library's logging has it
        error = given[1]
    if error is not None:
        frames = "".join(traceback.format_tb(error.__traceback__))
        event["exception"] = f"{frames}{type(error).__name__}"
    return event


class _Output:
    """What all loggers of ours write to.

    Attributes:
        logger: has a method for each level.
        json_level: the least severe level, where lines are JSON and written here; else ``None``.
    """

    def __init__(self) -> None:
        self.logger: Any = logging.getLogger(NAME)
        self.json_level: int | None = None

    def __getattr__(self, method: str) -> Any:
        return getattr(self.logger, method)


_output = _Output()
_processors: list[Processor] = [  # that all loggers of ours share; ``configure`` puts others in their place
    structlog.stdlib.filter_by_level,
    without_messages,
    structlog.processors.KeyValueRenderer(key_order=["event"]),
]
_log = get_logger()
