"""How long a body may take: the connection alone, with a clock that stands still."""

from __future__ import annotations

import pytest

from embeddings_gateway.config import ServerConfig
from embeddings_gateway.server import connection
from embeddings_gateway.server.connection import MIN_BODY_BYTES_PER_S, Connection
from embeddings_gateway.server.limits import Limits
from tests.connection import START

pytestmark = pytest.mark.anyio

TIMEOUT_S = 30


class Transport:
    """A transport that takes everything and sends nothing."""

    def get_extra_info(self, name):
        """Tell nothing."""

    def is_closing(self):
        """Tell that it is open."""
        return False

    def pause_reading(self):
        """Do nothing."""

    def resume_reading(self):
        """Do nothing."""


class Application:
    """Reads the body of each request."""

    async def __call__(self, request):
        """See :class:`embeddings_gateway.server.request.Application`."""
        await request.read(1 << 30, float("inf"))


class Clock:
    """Stands at ``now``, in seconds."""

    now = 0.0

    def monotonic(self):
        """Return the time."""
        return self.now


@pytest.fixture
async def upload(monkeypatch):
    """Return the clock and a connection on which a body of 64 MiB begins."""
    clock = Clock()
    monkeypatch.setattr(connection, "time", clock)
    receiving = Connection(Application(), Limits(ServerConfig(body_timeout_s=TIMEOUT_S)))
    receiving.connection_made(Transport())
    receiving.data_received(START + b"content-length: %d\r\n\r\n" % (64 << 20))
    yield clock, receiving
    receiving.current.task.cancel()


async def test_a_slow_line(upload):
    """A body that keeps arriving at the least rate has as long as it takes."""
    clock, receiving = upload
    while clock.now < 20 * TIMEOUT_S:
        clock.now += 10
        assert clock.now < receiving.deadline <= clock.now + TIMEOUT_S
        receiving.data_received(bytes(10 * MIN_BODY_BYTES_PER_S))


async def test_a_body_that_stops(upload):
    """However much has arrived, a body that stops has the timeout from then on."""
    clock, receiving = upload
    clock.now = 1
    receiving.data_received(bytes(32 << 20))
    assert receiving.deadline == 1 + TIMEOUT_S


async def test_a_body_that_drips(upload):
    """A body that arrives below the rate has the timeout and the time that its bytes take at that rate."""
    clock, receiving = upload
    clock.now = 20
    receiving.data_received(bytes(MIN_BODY_BYTES_PER_S))
    assert receiving.deadline == TIMEOUT_S + 1
