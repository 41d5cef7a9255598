"""The load generator, a process of its own: a plan on standard input, what came of it on standard output.

Requests are built before the clock starts, and answers looked into after it has stopped.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time

import msgspec
import uvloop

from bench.answers import Vectors, vectors_of
from bench.drive import Drive
from bench.plan import SAMPLE_VECTORS, Load, Plan
from bench.process_tree import ProcessTree
from bench.texts import make_texts

PATIENCE_S = 120.0


class GeneratorError(Exception):
    """The load generator itself failed, because nobody listens for instance."""


class Times(msgspec.Struct, frozen=True):
    """A moment: wall time, processor time of this process and of the server's."""

    wall_s: float
    client_s: float
    server_s: float | None

    @classmethod
    def now(cls, server: ProcessTree | None) -> Times:
        """Read the clocks."""
        server_s = None if server is None else server.cpu_s()
        return cls(time.perf_counter(), time.process_time(), server_s)


def generate(plan: Plan) -> Load:
    """Carry out a plan in a process of its own.

    Raises:
        GeneratorError: it cannot be carried out at all.
    """
    command = [sys.executable, "-m", "bench.generator"]
    done = subprocess.run(command, input=msgspec.json.encode(plan), capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise GeneratorError(lines[-1] if lines else f"the load generator ended with {done.returncode}")
    try:
        return msgspec.json.decode(done.stdout, type=Load)
    except msgspec.DecodeError as error:
        raise GeneratorError(f"the load generator wrote {len(done.stdout)} bytes: {error}") from None


def requests_of(plan: Plan) -> list[bytes]:
    """Return whole requests: head and body."""
    texts = make_texts(plan.kind, plan.start, plan.texts)
    fields: dict[str, object] = {"model": plan.model}
    if plan.base64:
        fields["encoding_format"] = "base64"
    head = f"POST {plan.path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nContent-Type: application/json\r\n"
    requests = []
    for first in range(0, len(texts), plan.inputs):
        body = msgspec.json.encode({**fields, "input": texts[first : first + plan.inputs]})
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return requests


async def drive(plan: Plan, requests: list[bytes]) -> tuple[Drive, Times, Times]:
    """Warm up and run the plan; return what was collected, and when it began and ended."""
    server = None if plan.pid is None else ProcessTree(plan.pid)
    driving = Drive(plan.host, plan.port, plan.clients)
    await driving.connect()
    await driving.run(requests[: plan.warm_up], PATIENCE_S, PATIENCE_S)
    driving.forget()
    gc.collect()
    gc.disable()
    began = Times.now(server)
    await driving.run(requests[plan.warm_up :], plan.seconds, PATIENCE_S)
    return driving, began, Times.now(server)


def judge(plan: Plan, driven: Drive, began: Times, ended: Times) -> Load:
    """Look into the answers."""
    vectors = {number: vectors_of(body, plan.inputs) for number, body in sorted(driven.bodies.items())}
    right = {number: found for number, found in vectors.items() if found is not None}
    known = began.server_s is not None and ended.server_s is not None
    return Load(
        elapsed_s=ended.wall_s - began.wall_s,
        answered=list(right),
        latencies_ms=driven.latencies_ms,
        failed=driven.failed,
        wrong=len(vectors) - len(right),
        unit=sum(unit_rows(found) for found in right.values()),
        errors=driven.reasons,
        cpu_s=(ended.server_s or 0.0) - (began.server_s or 0.0) if known else None,
        client_cpu_s=ended.client_s - began.client_s,
        samples={number: right[number][:SAMPLE_VECTORS].tolist() for number in list(right)[: plan.samples]},
    )


def unit_rows(vectors: Vectors) -> int:
    """Count the rows of unit length."""
    return int((abs((vectors.astype(float) ** 2).sum(axis=1) - 1) < 1e-3).sum())


def main() -> None:
    """Read a plan, carry it out, write what came of it."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    requests = requests_of(plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        driven, began, ended = runner.run(drive(plan, requests))
    sys.stdout.buffer.write(msgspec.json.encode(judge(plan, driven, began, ended)))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
