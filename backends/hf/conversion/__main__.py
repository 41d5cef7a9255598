"""The process that converts one model: an order on standard input, its outcome on standard output.

Its argument is the process id of the worker that waits for it, and with which it ends.

A process of its own, because torch, transformers and the weights in fp32 would otherwise stay in the memory
of a worker that needs none of them.
"""

from __future__ import annotations

import os
import sys

import msgspec

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.conversion.convert import convert
from embeddings_gateway.backends.hf.conversion.record import ConversionOrder, ConversionOutcome, Unservable
from embeddings_gateway.backends.hf.silence_transformers import silence_transformers
from embeddings_gateway.backends.parent import end_with_parent


def main() -> None:
    """Carry out one order."""
    end_with_parent(int(sys.argv[1]))
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no part of the answer
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=ConversionOrder)
    try:
        with silence_transformers():
            outcome: ConversionOutcome = convert(order)
    except LoadError as error:
        outcome = Unservable(str(error))
    with answer:
        answer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
