"""A worker process is kept alive, and what cannot be kept alive says why."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import numpy as np
import pytest

from embeddings_gateway.backends.fake import fake_vector
from embeddings_gateway.backends.spec import FakeSpec, FaultSpec
from embeddings_gateway.workers.supervisor import Supervisor
from embeddings_gateway.workers.worker import WorkerDied, WorkerLost
from tests.gateway.fakes import all_quiet, make_ids
from tests.processes import Watch, freeze

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    """Run on the event loop of the command line, and on the server's."""
    return "asyncio", {"use_uvloop": request.param}


class Watched:
    """A supervisor whose changes of state are seen one by one.

    Attributes:
        states: each state as it is entered.
        accepting: whether a worker that has loaded may serve.
    """

    def __init__(self, metrics, spec):
        self.states = asyncio.Queue()
        self.accepting = True
        self.one = Supervisor(
            "m", spec, metrics.model("m"), accepts=lambda info: bool(self.accepting), changed=self._changed
        )

    async def until(self, state):
        """Wait until that state is entered."""
        while await self.states.get() != state:
            pass

    def forget(self):
        """Forget what was seen so far."""
        while not self.states.empty():
            self.states.get_nowait()

    def _changed(self):
        self.states.put_nowait(self.one.state)


@pytest.fixture
async def watched(metrics):
    """Return a function that makes and starts a supervisor, stopped at the end."""
    started = []

    def start(spec=None):
        started.append(Watched(metrics, spec or FakeSpec(width=4)))
        started[-1].one.start()
        return started[-1]

    yield start
    for one in started:
        await one.one.stop()


def restarts(metrics):
    """Return the count of restarts."""
    return metrics.registry.get_sample_value("embeddings_gateway_worker_restarts_total", {"model": "m"})


async def test_loading_and_ready(watched):
    """A supervisor is loading until its worker is ready, and then hands calls to it."""
    supervisor = watched().one
    assert (supervisor.state, supervisor.info) == ("loading", None)
    assert supervisor.reason
    with pytest.raises(WorkerLost):
        await supervisor.ping()
    await supervisor.attempted()
    assert (supervisor.state, supervisor.reason) == ("ready", "")
    assert supervisor.info.dimensions == 4
    assert repr(supervisor) == "<Supervisor m ready>"
    ids = make_ids(3)
    assert np.array_equal((await supervisor.embed([ids], 0)).vectors, [fake_vector(ids, 4)])


async def test_killed_worker(watched, metrics, own_child):
    """A worker that is killed leaves no call open, and is started again with the same fingerprint."""
    watching = watched()
    await watching.until("ready")
    before, pid = watching.one.info, own_child()
    freeze(pid)
    calls = [asyncio.ensure_future(watching.one.embed([make_ids(3)], 0)) for _ in range(2)]
    await all_quiet()
    os.kill(pid, signal.SIGKILL)
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [WorkerDied, WorkerLost]
    await watching.until("restarting")
    assert not watching.one.ready
    await watching.until("ready")
    assert watching.one.info.fingerprint == before.fingerprint
    assert own_child() != pid
    assert await watching.one.ping() == 0.0
    assert restarts(metrics) == 1


KILLER = np.frombuffer(b"<abort>", np.uint8).astype(np.int32)


async def died(supervisor, times):
    """Have its worker end so many times, and wait until that is known."""
    for _ in range(times):
        with pytest.raises(WorkerDied):
            await supervisor.embed([KILLER], 0)


@pytest.mark.parametrize(("deaths", "before", "explained"), [(5, 0, 0), (5, 2, 0), (6, 1, 1)])
async def test_deaths_of_a_search_that_nobody_explains(watched, deaths, before, explained):
    """Deaths of a search that nobody explains count when it is over, beside those that came before it."""
    watching = watched(FaultSpec())
    await watching.until("ready")
    for _ in range(before):
        await died(watching.one, 1)
        await watching.until("ready")
    async with watching.one.alone():
        await died(watching.one, deaths - before)
        watching.one.explained(explained)
        watching.forget()
    await watching.until("broken")
    await watching.until("ready")


async def test_deaths_of_a_search_that_are_explained(watched):
    """Deaths that an input explains do not count, however many; of those before only the one that it did."""
    watching = watched(FaultSpec())
    await watching.until("ready")
    for _ in range(4):
        await died(watching.one, 1)
        await watching.until("ready")
    async with watching.one.alone():
        await died(watching.one, 6)
        watching.one.explained(7)
    assert watching.one.state == "restarting"
    watching.forget()
    await watching.until("ready")
    await died(watching.one, 1)
    await watching.until("restarting")
    await watching.until("ready")
    await died(watching.one, 1)
    await watching.until("broken")


async def test_mistake_of_ours(watched):
    """A supervisor that fails itself tries again, tells so after the first attempt, and is not waited for."""
    watching = watched()
    watching.accepting = Mistake()
    await watching.one.attempted()
    await watching.until("broken")
    watching.accepting = True
    await watching.until("ready")


class Mistake:
    """Neither true nor false."""

    def __bool__(self):
        raise RuntimeError("nobody foresaw this")


REFUSING = """
from embeddings_gateway.backends import base, fake

def refuse(*_):
    raise base.LoadError("no room on the device")

fake.FakeBackend.__init__ = refuse
"""


async def test_refused_model(watched, metrics, own_child):
    """A model that cannot be served has failed, says why, and is not tried again."""
    supervisor = watched(FakeSpec(dimensions=(16,))).one
    await supervisor.attempted()
    assert supervisor.state == "failed"
    assert "the model has 8" in supervisor.reason
    assert own_child() is None
    assert restarts(metrics) == 0


async def test_refused_when_started_again(watched, own_child, monkeypatch, tmp_path):
    """A model that was served, and is refused when its worker is started again, is tried until it loads."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    watching = watched()
    await watching.until("ready")
    (tmp_path / "sitecustomize.py").write_text(REFUSING)
    os.kill(own_child(), signal.SIGKILL)
    await watching.until("broken")
    assert "no room on the device" in watching.one.reason
    (tmp_path / "sitecustomize.py").unlink()
    await watching.until("ready")


async def test_death_while_loading(watched, metrics, monkeypatch, tmp_path):
    """A worker that dies while it loads is started again; that it did not load is known before it does."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)")
    watching = watched()
    await watching.one.attempted()
    assert watching.one.state == "loading"
    assert "died" in watching.one.reason
    (tmp_path / "sitecustomize.py").unlink()
    await watching.until("ready")
    assert restarts(metrics) >= 1


async def test_no_process_to_be_had(watched, monkeypatch):
    """While the system starts no process it is tried again, and goes well when the system does."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nowhere/python")
        watching = watched()
        await watching.one.attempted()
        assert watching.one.state == "loading"
    await watching.until("ready")


async def test_model_that_is_not_accepted(watched, own_child):
    """A worker that comes back with a model that is not accepted has failed, and is ended."""
    watching = watched()
    await watching.until("ready")
    watching.accepting = False
    os.kill(own_child(), signal.SIGKILL)
    await watching.until("failed")
    assert "changed" in watching.one.reason
    assert not watching.one.ready
    assert own_child() is None


async def test_stop(watched, own_child):
    """A supervisor that is stopped ends its worker, loses its open calls and takes no more."""
    watching = watched()
    await watching.until("ready")
    freeze(own_child())
    call = asyncio.ensure_future(watching.one.ping())
    await all_quiet()
    await watching.one.stop()
    assert (watching.one.state, watching.one.ready) == ("stopped", False)
    assert own_child() is None
    with pytest.raises(WorkerLost):
        await call
    with pytest.raises(WorkerLost):
        await watching.one.embed([make_ids(3)], 0)


async def test_stop_while_loading(watched, own_child):
    """A supervisor that is stopped before its worker is ready leaves no process."""
    watching = watched()
    while own_child() is None:
        await asyncio.sleep(0)
    watch = Watch(own_child())
    await watching.one.stop()
    assert watching.one.state == "stopped"
    assert watch.ended()
