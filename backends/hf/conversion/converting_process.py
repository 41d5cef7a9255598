"""The process that converts one model: it reads an order from standard input and writes the outcome to standard output.

It is a process of its own (``python -m``): torch, transformers and the weights in fp32 would otherwise stay in the
memory of a worker that needs none of them. Its argument is the process id of the worker that waits for it. It asks the
system to end it with that worker before it imports any of them, which takes seconds.
"""

from __future__ import annotations

import os
import sys

from embeddings_gateway.backends.own_process import confine, end_with_parent, name_temporary_folder


def main() -> None:
    """Carry out the order on standard input."""
    end_with_parent(int(sys.argv[1]))
    confine()
    name_temporary_folder()
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not part of the outcome
    outcome = carry_out(sys.stdin.buffer.read())
    with output:
        output.write(outcome)


def carry_out(order: bytes) -> bytes:
    """Return the encoded outcome of an encoded order."""
    import msgspec

    from embeddings_gateway.backends.base import LoadError
    from embeddings_gateway.backends.hf.conversion.conversion_cache import (
        ConversionOrder,
        ConversionOutcome,
        Unservable,
    )
    from embeddings_gateway.backends.hf.conversion.convert import convert
    from embeddings_gateway.backends.hf.silence_transformers import silence_transformers

    try:
        with silence_transformers():
            outcome: ConversionOutcome = convert(msgspec.json.decode(order, type=ConversionOrder))
    except LoadError as error:
        outcome = Unservable(str(error))
    return msgspec.json.encode(outcome)


if __name__ == "__main__":
    main()
