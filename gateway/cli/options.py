"""The parts that commands share: the configuration option, the consoles, and failing with a reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from embeddings_gateway.config import Config
from embeddings_gateway.config_file import VARIABLE, ConfigError, find_config, read_config

ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar=VARIABLE,
        help="The configuration file; else gateway.toml here, else the built-in default.",
        show_default=False,
    ),
]

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def load_config(path: Path | None) -> Config:
    """Return the configuration, and warn of each old name in it; if it cannot be read, end the command."""
    config = read_or_fail(path)
    for where, old, new in config.renamed:
        err.print(f"[bold yellow]warning:[/] {rich_escaped(where)}: {old} is now called {new}: rename it")
    return config


def read_or_fail(path: Path | None) -> Config:
    """Return the configuration; if it cannot be read, end the command."""
    try:
        return read_config(path or find_config())
    except ConfigError as error:
        fail(str(error))


def forward_stderr() -> Callable[[bytes], object] | None:
    """Return a function that prints workers' output, such as a download's progress; only on a terminal."""
    return _print_bytes if err.is_terminal else None


def _print_bytes(output: bytes) -> None:
    sys.stderr.buffer.write(output)
    sys.stderr.buffer.flush()


def fail(reason: str) -> NoReturn:
    """End the command with status 1 and the reason on standard error."""
    err.print(f"[bold red]error:[/] {rich_escaped(reason)}")
    raise typer.Exit(1)


def rich_escaped(text: str) -> str:
    """Return the text so that rich prints it as it is."""
    return text.replace("[", r"\[")
