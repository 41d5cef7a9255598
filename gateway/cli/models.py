"""``models``: what the configuration says is served."""

from __future__ import annotations

from rich.table import Table

from gateway.cli.options import ConfigPath, load_config, out


def models(config: ConfigPath = None) -> None:
    """List the configured models, without loading them."""
    settings = load_config(config)
    table = Table("model", "backend", "path", "aliases", "replicas", title=f"Models of {settings.source}")
    for name, model in settings.models.items():
        spec, serving = model.spec, model.serving
        table.add_row(
            name,
            spec.kind,
            getattr(spec, "path", ""),
            ", ".join(serving.aliases),
            str(serving.replicas),
        )
    out.print(table)
