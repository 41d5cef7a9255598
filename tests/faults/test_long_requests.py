"""Requests that are far too long, and large ones whose clients leave: others lose no more than their share."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.faults.asking import ask
from tests.faults.connection import Connection, post
from tests.faults.figures import p99
from tests.faults.load import Load
from tests.faults.models import FULL_SIZE, real, truth_of
from tests.faults.truth import Truth
from tests.faults.watch import resources
from tests.server import Server, serving

pytestmark = FULL_SIZE
BODY_BYTES = 8_000_000
CHARS_MAX = 1_000_000
ATTACKERS = 2
CLIENTS = 2
QUIET_S, ATTACK_S = 40, 40
LEAVERS, LEAVE_BYTES, LEAVE_S = 20, 2_000_000, 3.0
VICTIM = "a sentence of words " * 60
MEMORY_MB = 300


def body(unit: str, size: int, **options: str) -> dict[str, object]:
    """Return a request of about so many bytes, in texts of a million characters."""
    text = unit * (CHARS_MAX // len(unit))
    return {"model": "model", "input": [text] * (size // len(json.dumps(text))), **options}


OVER_LONG = (
    body("! ", BODY_BYTES),
    body("hello world and more ", BODY_BYTES, truncate="mean"),
    body("今天天气", BODY_BYTES, truncate="mean"),
)
LARGEST = tuple(
    body(unit, BODY_BYTES, truncate=policy)
    for unit in ("! ", "a", " ", "今天", "é", "hello world and more ")
    for policy in ("right", "left", "mean")
)


class Memory:
    """Watches how much memory a gateway and its workers take together, in a thread. A context manager.

    Attributes:
        begin, peak: megabytes.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.begin = self.peak = sum(resources(server).megabytes)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, sum(resources(self._server).megabytes))


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    """Return a gateway with a real model, whose caches are warm."""
    with serving(tmp_path, real("model")) as server:
        asyncio.run(warmed(server))
        yield server


async def warmed(server: Server) -> None:
    """Have the worker make what it makes once."""
    for _ in range(3):
        await ask(server, "model", [VICTIM] * 64, truncate="right")


async def loaded(
    server: Server, truth: Truth, seconds: float, attacks: list[bytes]
) -> tuple[Load, Counter[int]]:
    """Return what clients saw in so many seconds, and how attackers were answered, each one request after the other."""
    load, statuses = Load(server, truth), Counter[int]()

    async def attack() -> None:
        connection = await Connection.open(server)
        for request in itertools.cycle(attacks):
            statuses[(await connection.ask(request)).status] += 1

    async with load.clients(CLIENTS):
        attackers = [asyncio.create_task(attack()) for _ in range(ATTACKERS if attacks else 0)]
        await asyncio.sleep(seconds)
        for attacker in attackers:
            assert not attacker.done(), attacker
            attacker.cancel()
    return load, statuses


def test_over_long_requests(server, tell):
    """Over-long requests of two connections cost others no 429 and at most twice the time, and little memory."""
    truth = truth_of(server, "model")
    quiet, _ = asyncio.run(loaded(server, truth, QUIET_S, []))
    with Memory(server) as memory:
        attacks = [post(content, "attack") for content in OVER_LONG]
        attacked, statuses = asyncio.run(loaded(server, truth, ATTACK_S, attacks))
    before, meanwhile = p99(quiet.seconds()), p99(attacked.seconds())
    medians = [statistics.median(load.seconds()) for load in (quiet, attacked)]
    megabytes = memory.peak - memory.begin
    tell(
        attacks=dict(statuses),
        refused=dict(attacked.refused),
        median_quiet_s=medians[0],
        median_s=medians[1],
        p99_quiet_s=before,
        p99_s=meanwhile,
        ratio=meanwhile / before,
        megabytes=megabytes,
    )
    assert set(statuses) == {400}
    assert not attacked.refused
    assert megabytes <= MEMORY_MB
    assert meanwhile <= 2 * before


def test_largest_bodies(server, tell):
    """The largest bodies of all kinds, two at a time, take at most 300 MB of gateway and worker together."""

    async def send(content: dict[str, object]) -> int:
        connection = await Connection.open(server)
        with contextlib.closing(connection):
            return (await connection.ask(post(content, "large"))).status

    async def all_of_them() -> Counter[int]:
        statuses = Counter[int]()
        for pair in zip(LARGEST[::2], LARGEST[1::2], strict=True):
            statuses.update(await asyncio.gather(*map(send, pair)))
        return statuses

    with Memory(server) as memory:
        statuses = asyncio.run(all_of_them())
    tell(statuses=dict(statuses), megabytes=memory.peak - memory.begin)
    assert set(statuses) <= {200, 400}
    assert memory.peak - memory.begin <= MEMORY_MB


@pytest.mark.parametrize("unit", ["! ", "é", "今天"], ids=["signs", "one word", "ideographs"])
def test_sent_and_left(server, tell, unit):
    """Of 40 MB whose clients leave within seconds nobody notices more than one batch."""

    async def leave() -> None:
        request = post(body(unit, LEAVE_BYTES, truncate="mean"), "leaves")
        for _ in range(LEAVERS):
            connection = await Connection.open(server)
            connection._writer.write(request)
            await asyncio.sleep(LEAVE_S / LEAVERS)
            connection.close()

    async def asked(texts: list[str]) -> float:
        began = time.monotonic()
        assert (await ask(server, "model", texts, truncate="right")).status == 200
        return time.monotonic() - began

    async def measured() -> tuple[float, float, float]:
        quiet = statistics.median([await asked([VICTIM]) for _ in range(9)])
        batch = statistics.median([await asked([VICTIM] * 16) for _ in range(5)])
        await leave()
        return quiet, batch, await asked([VICTIM])

    quiet_s, batch_s, after_s = asyncio.run(measured())
    tell(quiet_s=quiet_s, batch_s=batch_s, after_s=after_s)
    assert after_s <= quiet_s + batch_s
