"""``models``: what the configuration says is served."""

from __future__ import annotations

from rich.table import Table

from embeddings_gateway.cli.options import ConfigPath, load_config, out, rich_escaped


def models(config: ConfigPath = None) -> None:
    """List the configured models, without loading them."""
    settings = load_config(config)
    table = Table("model", "backend", "path", "aliases", "replicas", title=f"Models of {settings.source}")
    for name, model in settings.models.items():
        spec, serving = model.spec, model.serving
        table.add_row(
            rich_escaped(name),
            spec.kind,
            rich_escaped(getattr(spec, "path", "")),
            rich_escaped(", ".join(serving.aliases)),
            str(serving.replicas),
        )
    out.print(table)
