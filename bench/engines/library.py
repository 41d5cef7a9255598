"""sentence-transformers as its users call it, with its defaults: ``SentenceTransformer(path).encode(texts)``.

It is a peer, and the reference of all vectors. Run as ``python -m bench.engines.library PATH``.
"""

from __future__ import annotations

import sys

import numpy as np
from sentence_transformers import SentenceTransformer

from bench.answers import Vectors
from bench.engines.command import Answer, Command, Embed, Ready, Rows
from bench.engines.desk import Respond, carry_out, serve
from bench.plan import Plan


def start() -> tuple[Ready, Respond]:
    """Load the model that the command line names."""
    model = SentenceTransformer(sys.argv[1], device="cpu")

    def embed(texts: list[str]) -> Vectors:
        return np.asarray(model.encode(texts, show_progress_bar=False), dtype=np.float32)

    def respond(command: Command) -> Answer:
        match command:
            case Plan():
                return carry_out(embed, command)
            case Embed():
                return Rows(embed(command.texts).tolist())
        raise NotImplementedError(type(command).__name__)

    return Ready("sentence-transformers", "fp32"), respond


if __name__ == "__main__":
    serve(start)
