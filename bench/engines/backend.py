"""This project's own backend without a gateway: what of it arrives at a client is measured against this.

Run as ``python -m bench.engines.backend SPEC``, the spec as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from bench.answers import Vectors
from bench.engines.clock import per_second
from bench.engines.command import Answer, Batches, Command, Embed, Rate, Ready, Rows
from bench.engines.desk import Respond, carry_out, serve
from bench.plan import Plan
from embeddings_gateway.backends.base import Backend, ModelInfo, TokenIds
from embeddings_gateway.backends.load import load
from embeddings_gateway.backends.spec import Spec


def start() -> tuple[Ready, Respond]:
    """Load the model that the command line describes."""
    spec: Spec = msgspec.json.decode(sys.argv[1], type=Spec)
    backend = load(spec)

    def respond(command: Command) -> Answer:
        match command:
            case Plan():
                return carry_out(lambda texts: embed(backend, texts), command)
            case Embed():
                return Rows(embed(backend, command.texts).tolist())
            case Batches():
                return Rate(batches_per_s(backend, command) * command.inputs * command.tokens)
        raise NotImplementedError(type(command).__name__)

    return Ready(backend.info.runtime, backend.info.dtype), respond


def embed(backend: Backend, texts: Sequence[str]) -> Vectors:
    """Return the vectors of texts, row by row: tokenized at once, computed in batches of like lengths."""
    inputs = backend.tokenize(texts)
    vectors = np.empty((len(texts), backend.info.dimensions), dtype=np.float32)
    for batch in batches(inputs, backend.info):
        vectors[batch] = backend.embed([inputs[index] for index in batch])
    return vectors


def batches(inputs: Sequence[TokenIds], info: ModelInfo) -> Iterator[list[int]]:
    """Yield the indexes of inputs in batches, longest first, each as full as the backend lets it be."""
    batch: list[int] = []
    cost = 0
    for index in sorted(range(len(inputs)), key=lambda index: -len(inputs[index])):
        length = len(inputs[index])
        # Sorted downwards: the first input is the longest, and padding makes all as long.
        grown = cost + (len(inputs[batch[0]]) if batch and info.cost == "padded" else length)
        if batch and (grown > info.batch_tokens or len(batch) == info.batch_inputs):
            yield batch
            batch, grown = [], length
        batch.append(index)
        cost = grown
    if batch:
        yield batch


def batches_per_s(backend: Backend, command: Batches) -> float:
    """Return how often a second the backend computes a batch of random ids."""
    info = backend.info
    special = len(info.prefix) + len(info.suffix)
    draw = np.random.default_rng(0)
    batch = [
        np.array([*info.prefix, *body, *info.suffix], dtype=np.int32)
        for body in draw.integers(0, info.vocabulary_size, (command.inputs, command.tokens - special))
    ]
    return per_second(lambda: backend.embed(batch), command.seconds)


if __name__ == "__main__":
    serve(start)
