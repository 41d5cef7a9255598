"""``models`` and ``check``: the configured models as tables, without and with loading them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence, Sized
from typing import NamedTuple, cast

import numpy as np
import typer
from rich.table import Table

from embeddings_gateway import log
from embeddings_gateway.backends.base import ModelInfo
from embeddings_gateway.backends.invariance import batch_invariance, cosine
from embeddings_gateway.backends.selftest import PROBES
from embeddings_gateway.cli import options
from embeddings_gateway.cli.options import rich_escaped
from embeddings_gateway.config import Config
from embeddings_gateway.errors import GatewayError
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Registry
from embeddings_gateway.serving.served import Call, Served

NO_CELL = ("prefix", "suffix", "created", "token_span", "divides_texts", "notes")
FACTS = [name for name in ModelInfo.__struct_fields__ if name not in NO_CELL]


class CheckResult(NamedTuple):
    """The result for one model.

    Attributes:
        info: the facts of the model; ``None`` if it is not loaded.
        min_cosine: the least cosine between the vectors of a probe text alone and in a batch.
        problem: what is wrong; empty if nothing is.
    """

    name: str
    info: ModelInfo | None
    min_cosine: float
    problem: str


def models(config: options.ConfigPath = None) -> None:
    """List the configured models, without loading them."""
    settings = options.load_config(config)
    table = Table("model", "backend", "path", "aliases", "replicas", title=f"Models of {settings.source}")
    for name, model in settings.models.items():
        path, aliases = getattr(model.spec, "path", ""), ", ".join(model.serving.aliases)
        cells = (name, model.spec.kind, path, aliases, str(model.serving.replicas))
        table.add_row(*map(rich_escaped, cells))
    options.out.print(table)


def check(config: options.ConfigPath = None) -> None:
    """Load every configured model, embed probe texts and show the results; status 1 if any is wrong."""
    settings = options.load_config(config)
    log.configure("console", "critical")  # problems are printed below
    results = asyncio.run(check_all(settings))
    options.out.print(table_of(results, settings.source))
    for result in results:
        for note in result.info.notes if result.info else ():
            options.out.print(f"[yellow]{rich_escaped(result.name)}:[/] {rich_escaped(note)}")
    problems = [(result.name, result.problem) for result in results if result.problem]
    for name, problem in problems:
        options.err.print(f"[bold red]{rich_escaped(name)}:[/] {rich_escaped(problem)}")
    if problems:
        raise typer.Exit(1)


async def check_all(config: Config) -> list[CheckResult]:
    """Load all models, and check one after the other."""
    async with Registry(config, Metrics(), options.forward_stderr()) as registry:
        await registry.first_attempt()
        return [await check_model(served) for served in registry.models]


async def check_model(served: Served) -> CheckResult:
    """Embed the probe texts alone and in a batch, and compare the vectors."""
    info = served.info
    if info is None:
        return CheckResult(served.name, info, 0.0, f"{served.state}: {served.reason}")
    try:
        together = (await served.run(Call(list(PROBES)))).vectors
        alone = np.concatenate([(await served.run(Call([text]))).vectors for text in PROBES])
    except GatewayError as error:
        return CheckResult(served.name, info, 0.0, error.message)
    min_cosine = float(cosine(together, alone).min())
    is_same = min_cosine >= batch_invariance(info)
    problem = "" if is_same else f"a text alone and in a batch agree to {min_cosine:.6f} only"
    return CheckResult(served.name, info, min_cosine, problem)


def table_of(results: Sequence[CheckResult], source: str) -> Table:
    """Return the results as a table with a column for each model."""
    table = Table("", *(rich_escaped(result.name) for result in results), title=f"Models of {source}")
    for name in FACTS:
        table.add_row(name.replace("_", " "), *(fact(result.info, name) for result in results))
    table.add_row("alone = in a batch", *(f"{r.min_cosine:.6f}" if r.info else "-" for r in results))
    table.add_row("check", *("[red]wrong[/]" if r.problem else "[green]right[/]" for r in results))
    return table


def fact(info: ModelInfo | None, name: str) -> str:
    """Return a fact of a model as a cell of the table."""
    value = getattr(info, name, None)
    if isinstance(value, Sized) and not isinstance(value, str):
        return rich_escaped(", ".join(map(str, cast(Iterable[object], value)))) or "-"
    return "-" if value is None else rich_escaped(str(value))
