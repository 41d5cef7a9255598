"""What a gateway tells of itself, by metrics and readiness, and what the system knows of its processes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, NamedTuple

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import children_of
from tests.server import WAIT_S, Server, eventually

PREFIX = "embeddings_gateway_"


def metric(server: Server, name: str, **labels: str) -> float:
    """Return the sum of a metric's values over all labels that are not given; 0 where it has none."""
    text = httpx.get(f"{server.url}/metrics", timeout=WAIT_S).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == PREFIX + name and labels.items() <= sample.labels.items()
    )


def starts(server: Server, model: str) -> int:
    """Return how often a worker of the model was started again."""
    return int(metric(server, "worker_restarts_total", model=model))


def health(server: Server) -> tuple[int, dict[str, Any]]:
    """Return the status of ``/readyz``, and what it says of each model."""
    answer = httpx.get(f"{server.url}/readyz", timeout=WAIT_S)
    return answer.status_code, answer.json()["models"]


def until_ready(server: Server) -> float:
    """Wait until every model can take a request; return the monotonic time."""
    end = time.monotonic() + WAIT_S
    while health(server)[0] != 200:
        assert time.monotonic() < end, health(server)
        time.sleep(0.01)
    return time.monotonic()


def restarted(server: Server, worker: int) -> float:
    """Kill an idle worker; return how many seconds it takes until there is another one that can be used."""
    began = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: worker not in workers(server))
    return until_ready(server) - began


def workers(server: Server) -> list[int]:
    """Return the process ids of the workers, the oldest first."""
    return sorted(children_of(server.pid), key=lambda pid: psutil.Process(pid).create_time())


class Resources(NamedTuple):
    """What processes hold.

    Attributes:
        at: monotonic seconds.
        processes: the gateway's process id and those of all that descend from it; the others in their order.
        megabytes: resident.
        descriptors: that the gateway's own process has open.
    """

    at: float
    processes: list[int]
    megabytes: list[float]
    threads: list[int]
    descriptors: int


def resources(server: Server) -> Resources:
    """Return what the gateway and its workers hold."""
    there = family(server)
    return Resources(
        time.monotonic(),
        [process.pid for process in there],
        [process.memory_info().rss / 1e6 for process in there],
        [process.num_threads() for process in there],
        there[0].num_fds(),
    )


def family(server: Server) -> list[psutil.Process]:
    """Return the gateway's process and all that descend from it."""
    root = psutil.Process(server.pid)
    return [root, *root.children(recursive=True)]


def clients_of(server: Server) -> set[int]:
    """Return the ports of the clients whose connections the gateway has not closed."""
    there = psutil.Process(server.pid).net_connections("tcp")
    return {connection.raddr.port for connection in there if connection.raddr}
