"""A gateway that is killed: nothing of it is left, neither processes nor files nor shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.asking import ask
from tests.faults.connection import Lost
from tests.faults.load import Load
from tests.faults.models import fault
from tests.faults.truth import Computed
from tests.faults.watch import family, metric
from tests.processes import Watch, children_of
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


async def while_loading(server) -> None:
    """Kill it while its worker loads the model."""
    eventually(lambda: children_of(server.pid) != [])
    server.process.kill()


MOMENTS = {
    "load": (under_load, {"seconds_per_token": 2e-5}),
    "hang": (lambda server: with_mark(server, "hang"), {}),
    "freeze": (lambda server: with_mark(server, "freeze"), {}),
    "loading": (while_loading, {"load_seconds": 60}),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(tmp_path, full_size, tell, moment):
    """Whatever it does when it is killed, its workers end, and it leaves nothing behind."""
    kill, keys = MOMENTS[moment]
    folders = {name: tmp_path / name for name in ("TMPDIR", "XDG_RUNTIME_DIR")}
    for folder in folders.values():
        folder.mkdir(mode=0o700)
    settings = {name: str(folder) for name, folder in folders.items()}
    with serving(tmp_path, fault("model", **keys), ready=moment != "loading", settings=settings) as server:
        eventually(lambda: children_of(server.pid) != [])
        processes = family(server)
        watches = [Watch(process.pid) for process in processes[1:]]
        shared = held(processes)
        began = time.monotonic()
        asyncio.run(kill(server))
        server.process.wait(WAIT_S)
        assert all(watch.ended() for watch in watches)
        ended_s = time.monotonic() - began
        tell(seconds=ended_s, workers=len(watches))
        assert not [path for path in shared if Path(path).exists()]
        assert not [path for folder in folders.values() for path in folder.rglob("*")]
        if full_size:
            assert ended_s <= ENDED_S
