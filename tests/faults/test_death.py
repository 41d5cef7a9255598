"""A gateway that is killed: nothing of it is left, neither processes nor files nor shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.faults.asking import ask
from tests.faults.connection import Lost
from tests.faults.load import Load
from tests.faults.models import FULL_SIZE, fault, real
from tests.faults.truth import Computed
from tests.faults.watch import family, metric
from tests.processes import Watch
from tests.server import WAIT_S, eventually, serving

ENDED_S = 5
SHARED = "/dev/shm/"


def held(processes) -> set[str]:
    """Return the files in shared memory that processes have open, or have mapped."""
    links = []
    for process in processes:
        with contextlib.suppress(OSError, psutil.Error):
            for kind in ("fd", "map_files"):
                links += [os.readlink(link) for link in Path(f"/proc/{process.pid}/{kind}").iterdir()]
    return {link for link in links if link.startswith(SHARED)}


def ended(watch) -> float:
    """Wait until a process has ended; return the monotonic time."""
    assert watch.ended()
    return time.monotonic()


async def under_load(server) -> None:
    """Kill it while clients wait."""

    async def loaded() -> None:
        async with Load(server, Computed("model")).clients(16) as load:
            await load.more(50)
            server.process.kill()

    with pytest.raises(
        AssertionError, match="Lost"
    ):  # their connections, which is all that they may complain of
        await loaded()


async def with_mark(server, mark) -> None:
    """Kill it while a text keeps its worker."""
    asking = asyncio.create_task(ask(server, "model", [f"<{mark}>"]))
    while await asyncio.to_thread(metric, server, "batch_inputs_count", model="model") < 1:
        await asyncio.sleep(0.01)
    server.process.kill()
    with contextlib.suppress(Lost):
        await asking


async def at_once(server) -> None:
    """Kill it."""
    server.process.kill()


MOMENTS = {
    "load": (under_load, lambda: fault("model", seconds_per_token=2e-5)),
    "hang": (lambda server: with_mark(server, "hang"), lambda: fault("model")),
    "freeze": (lambda server: with_mark(server, "freeze"), lambda: fault("model")),
    "loading": (at_once, lambda: fault("model", load_seconds=60)),
    "converting": (at_once, lambda: real("model")),
}
GENERATIONS = {"converting": 3, "loading": 2}
"""Processes that there are before it is killed; where nothing is said it serves first."""


SOME = ("load", "freeze", "converting")


@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=() if moment in SOME else FULL_SIZE) for moment in MOMENTS]
)
def test_killed(tmp_path, full_size, tell, moment):
    """Whatever it does when it is killed, its workers end, and it leaves nothing behind."""
    kill, config = MOMENTS[moment]
    folders = {name: tmp_path / name for name in ("TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME")}
    for folder in folders.values():
        folder.mkdir(mode=0o700)
    settings = {name: str(folder) for name, folder in folders.items()}
    with serving(tmp_path, config(), ready=moment not in GENERATIONS, settings=settings) as server:
        eventually(lambda: len(family(server)) >= GENERATIONS.get(moment, 2))
        processes = family(server)
        shared = held(processes)
        with ThreadPoolExecutor() as pool:
            ends = [pool.submit(ended, Watch(process.pid)) for process in processes]
            asyncio.run(kill(server))
            server.process.wait(WAIT_S)
            own, *others = [end.result() for end in ends]
        tell(seconds=max(others) - own, workers=len(others))
        assert not [path for path in shared if Path(path).exists()]
        assert not [path for name in ("TMPDIR", "XDG_RUNTIME_DIR") for path in folders[name].rglob("*")]
        if full_size:
            assert max(others) - own <= ENDED_S
