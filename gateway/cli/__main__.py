"""``python -m gateway.cli`` is the command ``embeddings-gateway``."""

from gateway.cli import main

main()
