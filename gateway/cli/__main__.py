"""``python -m embeddings_gateway.cli`` is the command ``embeddings-gateway``."""

from embeddings_gateway.cli import main

main()
