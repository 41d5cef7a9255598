"""``check``: load everything, embed probe texts, and say what was found."""

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
from embeddings_gateway.cli.options import ConfigPath, echo, err, load_config, out, rich_escaped
from embeddings_gateway.config import Config
from embeddings_gateway.errors import GatewayError
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Registry
from embeddings_gateway.serving.served import Call, Served


class Found(NamedTuple):
    """What came of one model: its facts, the least cosine of a probe alone and in a batch, what is wrong."""

    name: str
    info: ModelInfo | None
    agreement: float
    wrong: str


def check(config: ConfigPath = None) -> None:
    """Load every configured model, embed probe texts and show what was found; status 1 if it is wrong."""
    settings = load_config(config)
    log.configure("console", "critical")  # what fails is told once, below
    found = asyncio.run(probe_all(settings))
    out.print(table(found, settings.source))
    wrong = [one for one in found if one.wrong]
    for one in wrong:
        err.print(f"[bold red]{rich_escaped(one.name)}:[/] {rich_escaped(one.wrong)}")
    if wrong:
        raise typer.Exit(1)


async def probe_all(config: Config) -> list[Found]:
    """Load all models and probe each of them."""
    async with Registry(config, Metrics(), echo()) as registry:
        await registry.first_attempt()
        return [await probe(served) for served in registry.models]


async def probe(served: Served) -> Found:
    """Embed the probe texts alone and together, which must not make a difference."""
    info = served.info
    if info is None:
        return Found(served.name, info, 0.0, f"{served.state}: {served.reason}")
    try:
        together = (await served.run(Call(list(PROBES)))).vectors
        alone = np.concatenate([(await served.run(Call([text]))).vectors for text in PROBES])
    except GatewayError as error:
        return Found(served.name, info, 0.0, error.message)
    agreement = float(cosine(together, alone).min())
    wrong = ""
    if agreement < batch_invariance(info):
        wrong = f"a text alone and in a batch agree to {agreement:.6f} only"
    return Found(served.name, info, agreement, wrong)


def table(found: Sequence[Found], source: str) -> Table:
    """Return what was found, a column for each model."""
    shown = Table("", *(rich_escaped(one.name) for one in found), title=f"Models of {source}")
    for name in FACTS:
        shown.add_row(name.replace("_", " "), *(fact(one.info, name) for one in found))
    shown.add_row("alone = in a batch", *(f"{one.agreement:.6f}" if one.info else "-" for one in found))
    shown.add_row("check", *("[red]wrong[/]" if one.wrong else "[green]right[/]" for one in found))
    return shown


def fact(info: ModelInfo | None, name: str) -> str:
    """Return a fact as people read it."""
    value = getattr(info, name, None)
    if isinstance(value, Sized) and not isinstance(value, str):
        return rich_escaped(", ".join(map(str, cast(Iterable[object], value)))) or "-"
    return "-" if value is None else rich_escaped(str(value))


FACTS = (
    "runtime",
    "device",
    "dtype",
    "dimensions",
    "supported_dimensions",
    "max_tokens",
    "vocabulary_size",
    "pooling",
    "normalized",
    "prompts",
    "default_prompt",
    "cost",
    "max_batch_tokens",
    "max_batch_inputs",
    "fingerprint",
    "notes",
)
