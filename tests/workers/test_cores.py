"""Replicas divide the cores, and each stays on its own where there are enough."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.config import ModelConfig, ServingConfig
from embeddings_gateway.workers.dispatcher import Dispatcher
from embeddings_gateway.workers.local.cores import Cores, Share, divide, usable
from embeddings_gateway.workers.local.local_engines import local_engines
from tests.processes import children_of

EIGHT = Cores(tuple(range(8)), 8)
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins processes")
two_cores = pytest.mark.skipif(
    not divide(usable(), 2)[0].cores, reason="two replicas cannot have cores of their own on this machine"
)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 16), st.none() | st.integers(1, 64))
def test_shares(numbers, total, replicas, threads):
    """Shares are equal and disjoint, and a pinned replica has a core for each of its threads."""
    cores = Cores(tuple(range(numbers)), min(numbers, total))
    shares = divide(cores, replicas, threads)
    assert len(shares) == replicas
    assert {share.threads for share in shares} == {threads or max(1, cores.total // replicas)}
    pinned = [number for share in shares for number in share.cores]
    assert len(pinned) == len(set(pinned))
    assert set(pinned) <= set(cores.numbers)
    assert len({len(share.cores) for share in shares}) == 1
    assert not pinned or all(len(share.cores) >= share.threads for share in shares)


def test_division():
    """Two replicas get half of the cores each, in number of threads and in cores to be pinned to."""
    assert divide(EIGHT, 2) == [Share(4, frozenset(range(4))), Share(4, frozenset(range(4, 8)))]


def test_fewer_threads():
    """A replica with fewer threads still gets its full share of the cores."""
    assert divide(EIGHT, 2, threads=1)[1] == Share(1, frozenset(range(4, 8)))


@pytest.mark.parametrize(
    ("cores", "replicas", "threads", "expected"),
    [
        (EIGHT, 1, None, 8),
        (EIGHT, 2, 5, 5),
        (EIGHT, 9, None, 1),
        (EIGHT._replace(total=4), 2, None, 2),
        (Cores((), 8), 2, None, 4),
    ],
    ids=["one", "threads", "replicas", "quota", "system"],
)
def test_not_pinned(cores, replicas, threads, expected):
    """A replica alone, too many threads or replicas, a quota, and a system that pins none: no replica is."""
    assert divide(cores, replicas, threads) == [Share(expected, frozenset())] * replicas


def machine(root, cores=(), **groups):
    """Write Linux's files about its cores, (number, package, core) each, and about the limits of groups."""
    for number, package, core in cores:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
    for name, limit in groups.items():
        group = root / "sys/fs/cgroup" / name.replace("_", "/")
        group.mkdir(parents=True, exist_ok=True)
        (group / "cpu.max").write_text(f"{limit}\n")
    (root / "proc/self").mkdir(parents=True)
    return root


@linux
def test_hyperthreads(tmp_path, monkeypatch):
    """Hyperthreads of one core stand side by side, and so do the cores of one package."""
    cores = [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1), (4, 0, 0), (5, 1, 0), (6, 0, 1), (7, 1, 1)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable(machine(tmp_path, cores)) == Cores((0, 4, 2, 6, 1, 5, 3, 7), 8)


@linux
def test_no_topology(tmp_path, monkeypatch):
    """If the system does not say which cores belong together, they are in order of number."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1, 2})
    assert usable(tmp_path) == Cores((1, 2, 3), 3)


@linux
@pytest.mark.parametrize(
    ("own", "groups", "total"),
    [
        ("/", {"": "200000 100000"}, 2),
        ("/", {"": "max 100000"}, 8),
        ("/", {"": "50000 100000"}, 1),
        ("/", {"": "1600000 100000"}, 8),
        ("/", {"": "words"}, 8),
        ("/a/b", {"a": "300000 100000", "a_b": "max 100000"}, 3),
        ("/a/b", {"a": "700000 100000", "a_b": "550000 100000"}, 5),
        ("/a", {"b": "100000 100000"}, 8),
    ],
)
def test_quota(tmp_path, monkeypatch, own, groups, total):
    """A limit on processor time, of this process's group or one above, is a limit on its threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    root = machine(tmp_path, **groups)
    (root / "proc/self/cgroup").write_text(f"1:cpu:/elsewhere\n0::{own}\n")
    assert usable(root).total == total


@pytest.fixture
async def start(metrics):
    """Return a function that loads the replicas of a model; it returns their dispatcher and process ids."""
    started = []

    async def ready(replicas, threads=None):
        before = set(children_of(os.getpid()))
        config = ModelConfig(spec=FakeSpec(threads=threads), serving=ServingConfig(replicas=replicas))
        dispatcher = Dispatcher()
        started.append(dispatcher)
        for make in local_engines("m", config, metrics.model("m"), None):
            dispatcher.add(make)
        dispatcher.start()
        await dispatcher.first_attempt()
        return dispatcher, set(children_of(os.getpid())) - before

    yield ready
    for dispatcher in started:
        await dispatcher.stop()


@pytest.mark.anyio
@two_cores
async def test_workers_are_pinned(start):
    """Each of two replicas has cores of its own."""
    _, pids = await start(replicas=2)
    expected = {share.cores for share in divide(usable(), 2)}
    assert {frozenset(os.sched_getaffinity(pid)) for pid in pids} == expected


@pytest.mark.anyio
@two_cores
async def test_pinned_again(start):
    """A replica that is started again has the same cores as before."""
    dispatcher, pids = await start(replicas=2)
    victim, other = pids
    cores = os.sched_getaffinity(victim)
    known = set(children_of(os.getpid()))
    os.kill(victim, signal.SIGKILL)
    while not (new := set(children_of(os.getpid())) - known) or not all(
        engine.ready for engine in dispatcher.engines
    ):
        await asyncio.sleep(0)
    assert os.sched_getaffinity(new.pop()) == cores
    assert os.sched_getaffinity(other) != cores


@pytest.mark.anyio
@two_cores
@pytest.mark.parametrize(("replicas", "threads"), [(1, None), (2, len(usable().numbers))])
async def test_workers_are_free(start, replicas, threads):
    """A replica alone, or ones with more threads than there are cores, may run on all of them."""
    _, pids = await start(replicas, threads)
    assert [os.sched_getaffinity(pid) for pid in pids] == [set(usable().numbers)] * replicas
