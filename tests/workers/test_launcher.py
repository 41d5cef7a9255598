"""A worker process is started, loads its model, is called, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.workers.engine import WorkerCrashed, WorkerGone
from embeddings_gateway.workers.local import process
from embeddings_gateway.workers.local.launcher import LoadCrashed, LoadRefused, startup
from tests.processes import Watch, freeze, only_child_of
from tests.workers.fakes import all_quiet, make_batch, right_vectors

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    """Run on the event loop of the command line, and on the server's."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def link(own_child):
    """Return a link to a real worker with the fake backend."""
    link = await startup(FakeSpec(width=4))
    yield link
    await link.close()


async def test_calls(link):
    """A real worker tokenizes, runs batches and answers pings."""
    assert [ids.tolist() for ids in (await link.tokenize(["a", "b"])).batch.split()] == [
        [256, 97, 257],
        [256, 98, 257],
    ]
    batch = make_batch(3, 5)
    result = await link.run(batch, ("dense",))
    assert np.array_equal(result.columns["dense"].values, right_vectors(batch, 4))
    assert result.seconds >= 0
    assert await link.check() == ""
    assert await link.ping() >= 0
    assert link.loaded.info.dimensions == 4


async def test_killed(link, own_child):
    """When a worker is killed, the calls it worked on raise WorkerCrashed, and waiting ones WorkerGone."""
    pid = own_child()
    freeze(pid)
    calls = [asyncio.ensure_future(link.run(make_batch(3), ("dense",))) for _ in range(2)]
    calls.append(asyncio.ensure_future(link.tokenize(["a"])))
    await all_quiet()
    os.kill(pid, signal.SIGKILL)
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [WorkerCrashed, WorkerGone, WorkerCrashed]
    assert (await link.ended()).how == "signal SIGKILL"


async def test_slow_exit(own_child, monkeypatch, tmp_path):
    """A worker that closes its socket and does not end is killed, and that is what is said of its end."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time; os.close(int(sys.orig_argv[-2])); time.sleep(1000)"
    )
    monkeypatch.setattr(process, "EXIT_S", 0.1)
    with pytest.raises(LoadCrashed, match="did not end"):
        await startup(FakeSpec())
    assert own_child() is None


async def test_closed(link, own_child):
    """Closing kills the process, and open calls raise WorkerGone."""
    freeze(own_child())
    call = asyncio.ensure_future(link.ping())
    await all_quiet()
    await link.close()
    assert own_child() is None
    with pytest.raises(WorkerGone):
        await call


async def test_refused(own_child):
    """A model that cannot be served is refused with the reason, and leaves no process."""
    with pytest.raises(LoadRefused, match="the model's vectors have 8"):
        await startup(FakeSpec(dimensions=(16,)))
    assert own_child() is None


async def test_cancelled(own_child):
    """A start that is cancelled leaves no process."""
    starting = asyncio.ensure_future(startup(FakeSpec()))
    while own_child() is None:
        await asyncio.sleep(0)
    watch = Watch(own_child())
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert watch.ended()


async def test_call_to_a_closed_socket(link):
    """A call at the moment when the socket has closed, and nobody has noticed, fails like any other."""
    link._process._transport.abort()
    with pytest.raises(WorkerCrashed):
        await link.tokenize(["a"])


async def test_text_that_cannot_be_sent(link):
    """A text that is not valid Unicode is declined, the others of its call are not; the worker owes no reply."""
    batch, declined, _ = await link.tokenize(["a", "\ud800", "bc"], timeout_s=0)
    assert batch.lengths[[0, 2]].tolist() == [3, 4]
    assert declined.keys() == {1}
    batch, declined, _ = await link.tokenize(["a"], ["\udfff"])
    assert (len(batch), list(declined)) == (1, [0])
    assert [link._hang_detector.poll() for _ in range(3)] == [""] * 3


async def test_cannot_be_started(monkeypatch):
    """A process that the system does not start is a failed load, with the system's reason."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(LoadCrashed, match="No such file"):
        await startup(FakeSpec())


async def test_working_directory(monkeypatch, tmp_path):
    """Whatever lies in the working directory is not imported by a worker."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    await (await startup(FakeSpec())).close()


PARENT = """
import asyncio
from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.workers.local import process
from embeddings_gateway.workers.local.launcher import startup

async def main():
    link = await startup(FakeSpec())
    print("ready", flush=True)
    await link.ended()

asyncio.run(main())
"""


def test_parent_killed():
    """A gateway that is killed leaves no worker behind."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        watch = Watch(only_child_of(parent.pid))
        parent.kill()
    assert watch.ended()
