"""The engine's side of its pipe: commands in, answers out, one at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import perf_counter, process_time

import msgspec
import numpy as np

from bench.answers import Vectors
from bench.engines.command import Answer, Command, Failed, Ready
from bench.plan import SAMPLE_VECTORS, Load, Plan
from bench.texts import make_texts

Respond = Callable[[Command], Answer]
EmbedTexts = Callable[[list[str]], Vectors]
REASON_CHARS = 300


def serve(start: Callable[[], tuple[Ready, Respond]]) -> None:
    """Start an engine and answer commands until standard input ends.

    What libraries print goes to standard error: standard output is the pipe.
    """
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)

        def say(answer: Answer) -> None:
            pipe.write(msgspec.json.encode(answer) + b"\n")
            pipe.flush()

        try:
            ready, respond = start()
        except Exception as error:  # whatever a library raises: the measurement goes on without this engine
            say(failed(error))
            return
        say(ready)
        decoder = msgspec.json.Decoder(Command)
        for line in sys.stdin.buffer:
            try:
                answer = respond(decoder.decode(line))
            except Exception as error:
                answer = failed(error)
            say(answer)


def failed(error: Exception) -> Failed:
    """Say in a line what went wrong."""
    lines = str(error).splitlines() or [""]
    return Failed(f"{type(error).__name__}: {lines[0][:REASON_CHARS]}")


def carry_out(embed: EmbedTexts, plan: Plan) -> Load:
    """Make the plan's calls one after the other, the warm-up's first; look into the vectors afterwards."""
    texts = make_texts(plan.kind, plan.start, plan.texts)
    calls = [texts[first : first + plan.inputs] for first in range(0, len(texts), plan.inputs)]
    for call in calls[: plan.warm_up]:
        embed(call)
    vectors: list[Vectors] = []
    latencies = []
    used, began = process_time(), perf_counter()
    ended = began
    for call in calls[plan.warm_up :]:
        vectors.append(embed(call))
        now = perf_counter()
        latencies.append(1000 * (now - ended))
        ended = now
        if now - began >= plan.seconds:
            break
    used = process_time() - used
    right = [number for number, rows in enumerate(vectors) if fits(rows, plan.inputs)]
    return Load(
        elapsed_s=ended - began,
        answered=right,
        latencies_ms=latencies,
        wrong=len(vectors) - len(right),
        cpu_s=used,
        samples={number: vectors[number][:SAMPLE_VECTORS].tolist() for number in right[: plan.samples]},
    )


def fits(rows: Vectors, inputs: int) -> bool:
    """Say whether these are vectors of so many inputs."""
    return rows.shape[0] == inputs and bool(np.isfinite(rows).all())
