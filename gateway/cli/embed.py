"""``embed``: embeds texts without a server, with the same batcher and workers."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import orjson
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from embeddings_gateway import log
from embeddings_gateway.backends.base import Vectors
from embeddings_gateway.cli.options import ConfigPath, err, fail, forward_stderr, load_config
from embeddings_gateway.config import Config, Truncate
from embeddings_gateway.errors import GatewayError
from embeddings_gateway.library.embedder import AsyncEmbedder

Format = Literal["jsonl", "npy"]


def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to embed.", show_default=False)] = None,
    *,
    file: Annotated[
        Path | None, typer.Option(help="A file with one text a line; - is standard input.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model; not needed if there is only one.")] = None,
    form: Annotated[Format | None, typer.Option("--format", help="npy is one float32 array.")] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; else standard output.")] = None,
    dimensions: Annotated[int | None, typer.Option(help="Columns to keep.")] = None,
    truncate: Annotated[
        Truncate | None, typer.Option(help="What happens to a text that is too long.")
    ] = None,
    config: ConfigPath = None,
) -> None:
    """Embed texts, or the lines of a file, without a server."""
    settings = load_config(config)
    log.configure("console", "critical")  # errors are printed below
    inputs = texts_of(texts or [], file)
    form = form or ("npy" if output and output.suffix == ".npy" else "jsonl")
    if form == "npy" and output is None:
        fail("--format npy needs --output FILE")
    if model is None and len(settings.models) > 1:
        fail(f"--model is one of {', '.join(settings.models)}")
    try:
        vectors = asyncio.run(embed_all(settings, model, inputs, dimensions, truncate))
    except GatewayError as error:
        fail(f"{counted_from_one(error.param)}: {error.message}" if error.param else error.message)
    try:
        write(vectors, form, output)
    except OSError as error:
        if output is None:  # a closed pipe: click ends the command without a message
            raise
        fail(f"{output} cannot be written: {error.strerror}")


def texts_of(texts: Sequence[str], file: Path | None) -> list[str]:
    """Return the arguments, then the lines of the file."""
    inputs = [*texts, *(lines_of(file) if file else ())]
    if not inputs:
        fail("nothing to embed: give texts, or --file")
    if "" in inputs:
        fail(f"input {inputs.index('') + 1} is empty")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        fail("a text is not UTF-8")
    return inputs


def lines_of(file: Path) -> list[str]:
    """Return the lines of a file. A line ends with LF or CR LF."""
    try:
        content = (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {error}")
    lines = content.removesuffix("\n").split("\n") if content else []
    return [line.removesuffix("\r") for line in lines]


async def embed_all(
    config: Config, model: str | None, texts: list[str], dimensions: int | None, truncate: Truncate | None
) -> Vectors:
    """Return the vectors of all inputs, float32 ``[inputs, dimensions]``.

    Raises:
        GatewayError: an input cannot be embedded; ``param`` names it.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with AsyncEmbedder(config, forward_stderr=forward_stderr()) as embedder:
        with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
            bar = progress.add_task("", total=len(texts))
            result = await embedder.embed(
                texts,
                model=model,
                dimensions=dimensions,
                truncate=truncate,
                progress=lambda done, _: progress.update(bar, completed=done),
            )
    for index in result.truncated:
        err.print(f"input {index + 1} was cut to fit the model", markup=False)
    for index in result.averaged:
        err.print(f"input {index + 1} is the average of several windows", markup=False)
    return result.vectors


def counted_from_one(param: str) -> str:
    """Return ``input[0]`` as ``input 1``."""
    index = re.fullmatch(r"input\[(\d+)\]", param)
    return f"input {int(index[1]) + 1}" if index else param


def write(vectors: Vectors, form: Format, output: Path | None) -> None:
    """Write the vectors to a file, or as JSON lines to standard output."""
    if form == "npy" and output is not None:
        with output.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
        return
    lines = b"".join(
        b'{"index":%d,"embedding":%b}\n' % (index, orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY))
        for index, row in enumerate(vectors)
    )
    if output is None:
        sys.stdout.buffer.write(lines)
        sys.stdout.flush()
    else:
        output.write_bytes(lines)
