"""``openapi``: the API's description as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from embeddings_gateway.api.embeddings import Embeddings
from embeddings_gateway.app import create_litestar
from embeddings_gateway.cli.options import out
from embeddings_gateway.config_file import read_config
from embeddings_gateway.metrics import Metrics
from embeddings_gateway.serving.registry import Registry


def openapi(
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("openapi/openapi.json"),
) -> None:
    """Write the OpenAPI document."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document(), indent=2, sort_keys=True) + "\n")
    out.print(f"Wrote {output}.")


def document() -> dict[str, Any]:
    """Return the OpenAPI document. It does not depend on the configuration."""
    config, metrics = read_config(None), Metrics()
    registry = Registry(config, metrics)
    embeddings = Embeddings(registry, config.server)
    return create_litestar(embeddings, registry, metrics).openapi_schema.to_schema()
