"""The gateway's own cost: requests of one input to a backend without a model, its process on one core."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import msgspec
import psutil

from bench import peers
from bench.compare import Say
from bench.generator import generate
from bench.options import Options
from bench.results import FakeRate
from bench.server import Server
from bench.shape import Shape
from bench.side import http_plan

CLIENTS = 32
KEYS: dict[str, str | int] = {"backend": "fake", "max_batch_tokens": 4096}
"""Its tokens are bytes: as many inputs make a batch as with real tokens and the budgets of real models."""
SHAPE = Shape(CLIENTS, 1, "short", ())


def fake(options: Options, say: Say) -> FakeRate:
    """Drive the gateway as hard as it goes.

    Raises:
        ServerError: it does not start.
    """
    found = FakeRate(
        settings=options.settings,
        clients=CLIENTS,
        pinned=can_pin(),
        requests_per_s=[],
        gateway_cpu_us=[],
        worker_cpu_us=[],
        client_cpu_us=[],
        failed=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        server = Server(peers.gateway(Path(folder), "fake", KEYS))
        own = os.sched_getaffinity(0) if found.pinned else set()
        try:
            server.ready()
            if found.pinned:
                pin(server.pid, own)
            for number in range(options.rounds):
                found = one_round(found, server, options, SHAPE.texts(options.seconds) * number)
                say(f"fake, round {number + 1}: {found.requests_per_s[-1]:.0f} requests/s")
        finally:
            if found.pinned:
                os.sched_setaffinity(0, own)
            server.close()
    return found


def one_round(found: FakeRate, server: Server, options: Options, first_text: int) -> FakeRate:
    """Drive it for one turn; add what came of it."""
    gateway = psutil.Process(server.pid)
    plan = http_plan(server.address, SHAPE, first_text, options.seconds, 0)
    before = cpu_s(gateway)
    load = generate(plan)
    own_s, answered = cpu_s(gateway) - before, max(1, len(load.answered))
    # The gateway is busy with the warm-up too, whose requests cost as much as the others.
    per_request_s = own_s / (answered + plan.warm_up)
    found.requests_per_s.append(answered / load.elapsed_s)
    found.gateway_cpu_us.append(1e6 * per_request_s)
    found.worker_cpu_us.append(1e6 * ((load.cpu_s or 0.0) / answered - per_request_s))
    found.client_cpu_us.append(1e6 * load.client_cpu_s / answered)
    return msgspec.structs.replace(found, failed=found.failed + load.failed + load.wrong)


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time of one process, without its descendants'."""
    times = process.cpu_times()
    return float(times.user + times.system)


def can_pin() -> bool:
    """Say whether there are two cores to tell apart."""
    return sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1


def pin(gateway: int, allowed: set[int]) -> None:
    """Put the gateway's process on one core, and everything else, this process included, on another."""
    first, second, *_ = sorted(allowed)
    for child in psutil.Process(gateway).children(recursive=True):
        pin_threads(child.pid, second)
    pin_threads(gateway, first)
    os.sched_setaffinity(0, {second})  # the load generator inherits it


def pin_threads(pid: int, core: int) -> None:
    """Put every thread of a process on a core."""
    for thread in psutil.Process(pid).threads():
        os.sched_setaffinity(thread.id, {core})
