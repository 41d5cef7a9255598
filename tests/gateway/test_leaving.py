"""A client that leaves while its request is worked on: its work ends, and no other cancellation is lost."""

from __future__ import annotations

import asyncio

import pytest

from embeddings_gateway.errors import ClientGone, Overloaded
from embeddings_gateway.http.client import Client
from tests.gateway.fakes import all_quiet

pytestmark = pytest.mark.anyio


class Work:
    """Work that ends when the test says so."""

    def __init__(self):
        self.end = asyncio.get_running_loop().create_future()
        self.cancelled = False

    async def run(self):
        """Return what the test says, or note that it was cancelled."""
        try:
            return await self.end
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.fixture
async def begun():
    """Return a client, work, and the task that does it for the client."""
    client, work = Client(), Work()
    task = asyncio.ensure_future(client.awaits(work.run()))
    await all_quiet()
    return client, work, task


async def test_stays(begun):
    """The result is handed on, and nothing waits for the client any more."""
    client, work, task = begun
    assert client.watched
    work.end.set_result(7)
    assert await task == 7
    await all_quiet()
    assert not client.watched


async def test_error(begun):
    """So is an error."""
    _, work, task = begun
    work.end.set_exception(Overloaded("full"))
    with pytest.raises(Overloaded):
        await task


async def test_leaves(begun):
    """When the client leaves the work is cancelled, and that is told as what it is."""
    client, work, task = begun
    client.leave()
    with pytest.raises(ClientGone):
        await task
    assert work.cancelled
    assert task.cancelling() == 0


async def test_leaves_at_the_last_moment(begun):
    """A client that leaves in the turn in which its work ends is answered or gone, and the task goes on."""
    client, work, task = begun
    work.end.set_result(7)
    client.leave()
    (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert ended == 7 or isinstance(ended, ClientGone)
    assert task.cancelling() == 0


async def test_cancelled_by_the_server(begun):
    """A cancellation that is not the client's stays one, also where the client leaves as well."""
    client, work, task = begun
    task.cancel()
    client.leave()
    await asyncio.wait([task])
    assert task.cancelled()
    assert work.cancelled


async def test_has_left_before():
    """Nothing is begun for a client that has left already."""
    client, work = Client(), Work()
    client.leave()
    with pytest.raises(ClientGone):
        await client.awaits(work.run())
    assert not client.watched
