"""One worker process and the calls to it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from embeddings_gateway.backends.fake import fake_vector
from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.workers.loading import DiedLoading, LoadRefused, connect
from embeddings_gateway.workers.worker import CallFailed, WorkerDied, WorkerLost
from tests.gateway.fakes import all_quiet, make_ids
from tests.processes import Watch, freeze, only_child_of

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    """Run on the event loop of the command line, and on the server's."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def connection(own_child):
    """Return a connection to a real worker with the fake backend."""
    made = await connect(FakeSpec(width=4))
    yield made
    await made.close()


async def test_calls(connection):
    """A real worker tokenizes, embeds and answers pings."""
    assert [ids.tolist() for ids in await connection.tokenize(["a", "b"])] == [[256, 97, 257], [256, 98, 257]]
    batch = [make_ids(3), make_ids(5)]
    timed = await connection.embed(batch)
    assert np.array_equal(timed.vectors, np.stack([fake_vector(ids, 4) for ids in batch]))
    assert timed.seconds >= 0
    assert await connection.ping() >= 0
    assert connection.info.dimensions == 4


async def test_killed(connection, own_child):
    """When a worker is killed, what it may have worked on has failed by that, and what waited is lost."""
    pid = own_child()
    freeze(pid)
    calls = [asyncio.ensure_future(connection.embed([make_ids(3)])) for _ in range(2)]
    calls.append(asyncio.ensure_future(connection.tokenize(["a"])))
    await all_quiet()
    os.kill(pid, signal.SIGKILL)
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [WorkerDied, WorkerLost, WorkerDied]
    assert (await connection.ended()).how == "signal SIGKILL"


async def test_closed(connection, own_child):
    """Closing ends the process, and what is open is lost."""
    freeze(own_child())
    call = asyncio.ensure_future(connection.ping())
    await all_quiet()
    await connection.close()
    assert own_child() is None
    with pytest.raises(WorkerLost):
        await call


async def test_refused(own_child):
    """A model that cannot be served is told with its reason, and leaves no process."""
    with pytest.raises(LoadRefused, match="the model has 8"):
        await connect(FakeSpec(dimensions=(16,)))
    assert own_child() is None


async def test_cancelled(own_child):
    """Giving up while a worker starts leaves no process."""
    starting = asyncio.ensure_future(connect(FakeSpec()))
    while own_child() is None:
        await asyncio.sleep(0)
    watch = Watch(own_child())
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert watch.ended()


async def test_call_to_a_closed_socket(connection):
    """A call in the moment when the socket has closed, and nobody has noticed, fails like any other."""
    connection._process._writer.transport.abort()
    with pytest.raises(WorkerDied):
        await connection.tokenize(["a"])


async def test_call_that_cannot_be_sent(connection):
    """A call that cannot be written as a frame fails by itself; the worker owes no answer to it."""
    with pytest.raises(CallFailed):
        await connection.tokenize(["\ud800"], seconds_max=0)
    assert [connection._vigil.tick() for _ in range(3)] == [""] * 3
    assert len(await connection.tokenize(["a"])) == 1


async def test_cannot_be_started(monkeypatch):
    """A process that the system does not start is a lost worker, with the system's reason."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(DiedLoading, match="No such file"):
        await connect(FakeSpec())


async def test_working_directory(monkeypatch, tmp_path):
    """Whatever lies in the working directory is not imported by a worker."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    await (await connect(FakeSpec())).close()


PARENT = """
import asyncio
from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.workers.loading import connect

async def main():
    connection = await connect(FakeSpec())
    print("ready", flush=True)
    await connection.ended()

asyncio.run(main())
"""


def test_parent_killed():
    """A gateway that is killed leaves no worker behind."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        watch = Watch(only_child_of(parent.pid))
        parent.kill()
    assert watch.ended()
