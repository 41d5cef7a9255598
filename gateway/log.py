"""Logging: structlog for ours and for what libraries log, to standard error, as JSON or for a terminal."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any, Literal

import orjson
import structlog


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
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # a line is one write, not two
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def configure_library() -> None:
    """Hand what is logged to the standard library's logging, for an application to do with as it likes.

    An application that has set structlog up for itself gets the events as they are.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            without_messages,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),  # whose traces are events' own
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


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
