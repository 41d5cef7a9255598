"""The command line: ``serve``, ``check``, ``models``, ``openapi`` and ``embed``."""

from __future__ import annotations

import typer

from embeddings_gateway.backends.own_process import name_user, open_standard_descriptors
from embeddings_gateway.cli.embed import embed
from embeddings_gateway.cli.models import check, models
from embeddings_gateway.cli.serve import openapi, serve

app = typer.Typer(
    name="embeddings-gateway",
    help="An OpenAI-compatible embeddings API over Hugging Face and GGUF models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and with them users' texts
)
for command in (serve, check, models, openapi, embed):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    open_standard_descriptors()
    name_user()
    app()
