"""A worker process is kept alive, and if that is impossible, the reason is known."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import numpy as np
import pytest

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.backends.spec import FakeSpec, FaultSpec
from embeddings_gateway.workers.engine import SearchAborted, WorkerCrashed, WorkerGone
from embeddings_gateway.workers.local.breaker import Backoff
from embeddings_gateway.workers.local.search_turns import SEARCHES_MAX
from embeddings_gateway.workers.local.supervisor import Supervisor
from tests.processes import Watch, freeze
from tests.workers.fakes import all_quiet, make_batch, right_vectors

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """Run on the server's event loop; the tests of the launcher run on the command line's too."""
    return "asyncio", {"use_uvloop": True}


class Watched:
    """A supervisor, with each change of its state.

    Attributes:
        states: each state as it is entered.
        accepting: whether a worker that has loaded may serve.
    """

    def __init__(self, metrics, spec):
        self.states = asyncio.Queue()
        self.accepting = True
        self.engine = Supervisor(
            "m",
            spec,
            metrics.model("m"),
            accepts=lambda loaded: "" if self.accepting else "it has changed",
            on_change=self._on_change,
            backoff=Backoff(0.01),
        )

    async def until(self, state):
        """Wait until that state is entered."""
        while await self.states.get() != state:
            pass

    def forget(self):
        """Forget the changes so far."""
        while not self.states.empty():
            self.states.get_nowait()

    def _on_change(self):
        self.states.put_nowait(self.engine.state)


@pytest.fixture
async def watched(metrics):
    """Return a function that makes and starts a supervisor, stopped at the end."""
    started = []

    def start(spec=None):
        started.append(Watched(metrics, spec or FakeSpec(width=4)))
        started[-1].engine.start()
        return started[-1]

    yield start
    for watching in started:
        await watching.engine.stop()


def restarts(metrics):
    """Return the count of restarts."""
    return metrics.registry.get_sample_value("embeddings_gateway_worker_restarts_total", {"model": "m"})


async def test_loading_and_ready(watched):
    """A supervisor is loading until its worker is ready, and then passes calls to it."""
    supervisor = watched().engine
    assert (supervisor.state, supervisor.info) == ("loading", None)
    assert supervisor.reason
    with pytest.raises(WorkerGone):
        await supervisor.ping()
    await supervisor.first_attempt()
    assert (supervisor.state, supervisor.reason) == ("ready", "")
    assert supervisor.info.dimensions == 4
    assert repr(supervisor) == "<Supervisor m ready>"
    batch = make_batch(3)
    result = await supervisor.run(batch, ("dense",), 0)
    assert np.array_equal(result.columns["dense"].values, right_vectors(batch, 4))
    assert (await supervisor.tokenize(["a"])).batch.lengths.tolist() == [3]
    assert supervisor.supervised is supervisor


async def test_killed_worker(watched, metrics, own_child):
    """A worker that is killed leaves no call open, and is restarted with the same fingerprint."""
    watching = watched()
    await watching.until("ready")
    before, pid = watching.engine.info, own_child()
    freeze(pid)
    calls = [asyncio.ensure_future(watching.engine.run(make_batch(3), ("dense",), 0)) for _ in range(2)]
    await all_quiet()
    os.kill(pid, signal.SIGKILL)
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [WorkerCrashed, WorkerGone]
    await watching.until("restarting")
    assert not watching.engine.ready
    await watching.until("ready")
    assert watching.engine.info.fingerprint == before.fingerprint
    assert own_child() != pid
    assert await watching.engine.ping() == 0.0
    assert restarts(metrics) == 1


KILLER = Batch.of([np.frombuffer(b"<abort>", np.uint8).astype(np.int32)])


async def crash(supervisor, times):
    """Crash its worker so many times, and wait each time until that is known."""
    for _ in range(times):
        with pytest.raises(WorkerCrashed):
            await supervisor.run(KILLER, ("dense",), 0)


async def crash_in_search(supervisor, times):
    """Crash its worker so many times in steps of a search."""
    for _ in range(times):
        async with supervisor.step(exclusive=True):
            await crash(supervisor, 1)


@pytest.mark.parametrize(("crashes", "before", "exonerated"), [(5, 0, 0), (5, 2, 0), (6, 1, 1)])
async def test_crashes_of_a_search_that_count(watched, crashes, before, exonerated):
    """Crashes of a search count when it ends, beside those before it, if no input caused them."""
    watching = watched(FaultSpec())
    await watching.until("ready")
    for _ in range(before):
        await crash(watching.engine, 1)
        await watching.until("ready")
    async with watching.engine.search():
        await crash_in_search(watching.engine, crashes - before)
        watching.engine.exonerate(exonerated)
        watching.forget()
    await watching.until("broken")
    await watching.until("ready")


async def test_crashes_of_a_search_that_do_not_count(watched):
    """Crashes that an input caused do not count, however many; earlier ones do, except the first of these."""
    watching = watched(FaultSpec())
    await watching.until("ready")
    for _ in range(4):
        await crash(watching.engine, 1)
        await watching.until("ready")
    async with watching.engine.search():
        await crash_in_search(watching.engine, 6)
        watching.engine.exonerate(7)
    assert watching.engine.state == "searching"
    watching.forget()
    await watching.until("ready")
    await crash(watching.engine, 1)
    await watching.until("restarting")
    await watching.until("ready")
    await crash(watching.engine, 1)
    await watching.until("broken")


async def test_steps_of_a_search(watched):
    """A step that is exclusive waits for open calls and takes no others; between steps all calls are taken."""
    watching = watched(FaultSpec())
    await watching.until("ready")
    engine, batch = watching.engine, make_batch(3)
    async with engine.search():
        async with engine.step(exclusive=False):
            assert engine.ready
        call = asyncio.ensure_future(engine.run(batch, ("dense",), 0))
        await all_quiet()
        async with engine.step(exclusive=True):
            assert call.done()
            assert (engine.state, engine.ready) == ("searching", False)
        assert (engine.state, engine.ready) == ("ready", True)


async def test_searches_wait_for_one_another(watched):
    """Searches take turns in the order of their coming, and only so many wait."""
    watching = watched()
    await watching.until("ready")
    order = []

    async def search(number):
        async with watching.engine.search():
            order.append(number)
            await all_quiet()

    async with asyncio.TaskGroup() as tasks:
        for number in range(SEARCHES_MAX):
            tasks.create_task(search(number))
        await asyncio.sleep(0)
        with pytest.raises(SearchAborted):
            await search(-1)
    assert order == list(range(SEARCHES_MAX))


async def test_searches_pay_for_restarts(watched):
    """Restarts after crashes that are searched for count as the searches' time, the first and the last as well."""
    watching = watched(FaultSpec(load_seconds=0.1))
    await watching.until("ready")
    engine = watching.engine
    charged = []
    engine._search_share.charge = lambda seconds, now: charged.append(seconds)
    await crash(engine, 1)
    async with engine.search():
        await crash_in_search(engine, 1)
    watching.forget()
    await watching.until("ready")
    assert sum(seconds >= 0.1 for seconds in charged) == 2
    await crash(engine, 1)
    watching.forget()
    await watching.until("ready")
    assert len(charged) == 3  # the third is the step itself


async def test_step_that_waits_when_the_engine_stops(watched):
    """A step of a search that waits for its share of time ends when the engine is stopped."""
    watching = watched()
    await watching.until("ready")
    watching.engine._search_share.charge(3600, time.monotonic())

    async def step():
        async with watching.engine.step(exclusive=True):
            raise AssertionError

    waiting = asyncio.ensure_future(step())
    await all_quiet()
    assert watching.engine.ready
    await watching.engine.stop()
    with pytest.raises(WorkerGone):
        await waiting


async def test_bug(watched):
    """A supervisor that fails itself tries again; calls do not wait for it after the first attempt."""
    watching = watched()
    watching.accepting = Bug()
    await watching.engine.first_attempt()
    await watching.until("broken")
    watching.accepting = True
    await watching.until("ready")


class Bug:
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
    supervisor = watched(FakeSpec(dimensions=(16,))).engine
    await supervisor.first_attempt()
    assert supervisor.state == "failed"
    assert "the model's vectors have 8" in supervisor.reason
    assert own_child() is None
    assert restarts(metrics) == 0


async def test_refused_at_a_restart(watched, own_child, monkeypatch, tmp_path):
    """A model that was served, and is refused at a restart, is tried until it loads."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    watching = watched()
    await watching.until("ready")
    (tmp_path / "sitecustomize.py").write_text(REFUSING)
    os.kill(own_child(), signal.SIGKILL)
    await watching.until("broken")
    assert "no room on the device" in watching.engine.reason
    (tmp_path / "sitecustomize.py").unlink()
    await watching.until("ready")


async def test_crash_while_loading(watched, metrics, monkeypatch, tmp_path):
    """A worker that crashes while it loads is restarted; the first attempt ends with the crash."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)")
    watching = watched()
    await watching.engine.first_attempt()
    assert watching.engine.state == "loading"
    assert "crashed" in watching.engine.reason
    (tmp_path / "sitecustomize.py").unlink()
    await watching.until("ready")
    assert restarts(metrics) >= 1


async def test_crash_while_loading_that_repeats(watched, metrics):
    """A model that crashes two workers in the same way while they load it has failed, and the crash is named."""
    watching = watched(FaultSpec(loading="abort"))
    await watching.until("failed")
    assert "signal SIGABRT: assertion failed" in watching.engine.reason
    assert restarts(metrics) == 1


async def test_worker_that_is_killed_while_it_loads(watched, metrics, monkeypatch, tmp_path):
    """A worker that somebody kills while it loads, as for lack of memory, is restarted however often."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "sitecustomize.py").write_text("import os; os.kill(os.getpid(), 9)")
    watching = watched()
    await watching.engine.first_attempt()
    assert "signal SIGKILL" in watching.engine.reason
    while restarts(metrics) < 3:
        await watching.states.get()
    (tmp_path / "sitecustomize.py").unlink()
    await watching.until("ready")


async def test_no_process_can_be_started(watched, monkeypatch):
    """While the system starts no process, the supervisor tries again, until one starts."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nowhere/python")
        watching = watched()
        await watching.engine.first_attempt()
        assert watching.engine.state == "loading"
    await watching.until("ready")


async def test_model_that_is_not_accepted(watched, own_child):
    """A worker that comes back with a model that is not accepted has failed, and is killed."""
    watching = watched()
    await watching.until("ready")
    watching.accepting = False
    os.kill(own_child(), signal.SIGKILL)
    await watching.until("failed")
    assert "changed" in watching.engine.reason
    assert not watching.engine.ready
    assert own_child() is None


@pytest.fixture
def file(tmp_path):
    """Return a file that a model is made of."""
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    return path


async def test_file_written_in_place(watched, file):
    """A worker is replaced at once when its file is written to, and its calls are not at fault."""
    watching = watched(FaultSpec(file=str(file)))
    await watching.until("ready")
    with file.open("r+b") as opened:
        opened.write(b"WEIGHTS")
    with pytest.raises(WorkerGone):
        await watching.engine.run(make_batch(3), ("dense",), 0)
    watching.forget()
    await watching.until("ready")  # this supervisor accepts every model
    assert len((await watching.engine.run(make_batch(3), ("dense",), 0)).columns) == 1


async def test_idle_worker_whose_file_is_written(watched, file, own_child):
    """A file that is written to is noticed without any call, and the same content is served again."""
    watching = watched(FaultSpec(file=str(file)))
    await watching.until("ready")
    before, pid = watching.engine.info, own_child()
    file.write_bytes(file.read_bytes())
    await watching.until("restarting")
    assert "was changed while it was served" in watching.engine.reason
    await watching.until("ready")
    assert watching.engine.info.fingerprint == before.fingerprint
    assert own_child() != pid


async def test_stop(watched, own_child):
    """A supervisor that is stopped kills its worker, fails its open calls and takes no more."""
    watching = watched()
    await watching.until("ready")
    freeze(own_child())
    call = asyncio.ensure_future(watching.engine.ping())
    await all_quiet()
    await watching.engine.stop()
    assert (watching.engine.state, watching.engine.ready) == ("stopped", False)
    assert own_child() is None
    with pytest.raises(WorkerGone):
        await call
    with pytest.raises(WorkerGone):
        await watching.engine.run(make_batch(3), ("dense",), 0)


async def test_stop_while_loading(watched, own_child):
    """A supervisor that is stopped before its worker is ready leaves no process."""
    watching = watched()
    while own_child() is None:
        await asyncio.sleep(0)
    watch = Watch(own_child())
    await watching.engine.stop()
    assert watching.engine.state == "stopped"
    assert watch.ended()
