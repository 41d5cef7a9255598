"""What is written in one turn of the event loop leaves as one, and nothing stays behind."""

from __future__ import annotations

import asyncio

from embeddings_gateway.http.transport import BYTES_MAX, JoiningTransport


class Notebook:
    """Writes down what a transport is told to do."""

    def __init__(self) -> None:
        self.told = []
        self.closing = False

    def writelines(self, pieces):
        """Note what leaves together."""
        self.told.append(b"".join(pieces))

    def write_eof(self):
        """Note it."""
        self.told.append("eof")

    def close(self):
        """Note it; from now on nothing may be written."""
        self.told.append("close")
        self.closing = True

    def is_closing(self):
        """Tell whether it has been closed."""
        return self.closing


def told(act):
    """Return what the transport below was told after ``act`` and one turn of the loop."""

    async def run():
        below = Notebook()
        act(JoiningTransport(below, lambda: below.told.append("ended")), below)
        await asyncio.sleep(0)
        return below.told

    return asyncio.run(run())


def test_head_and_body_leave_together():
    """Two writes of one turn are one."""

    def act(transport, _):
        transport.write(b"head")
        transport.write(b"body")

    assert told(act) == [b"headbody"]


def test_each_turn_leaves_by_itself():
    """What is written in a later turn leaves in that turn."""

    async def run():
        below = Notebook()
        transport = JoiningTransport(below, list)
        for piece in (b"one", b"two"):
            transport.write(piece)
            await asyncio.sleep(0)
        return below.told

    assert asyncio.run(run()) == [b"one", b"two"]


def test_much_is_not_held_back():
    """More than the bound leaves at once, after what was held back."""
    much = bytes(BYTES_MAX)

    def act(transport, below):
        transport.write(b"head")
        transport.write(much)
        assert below.told == [b"head" + much]

    assert told(act) == [b"head" + much]


def test_nothing_is_lost_at_the_end():
    """Closing both ways, or the way out, comes after what was written."""

    def leave(transport, _):
        transport.write(b"last")
        transport.leave()

    def close(transport, _):
        transport.write(b"last")
        transport.close()

    assert told(leave) == [b"last", "close"]
    assert told(close) == [b"last", "eof", "ended"]


def test_nothing_is_written_after_the_end():
    """What comes after the way out was closed, another closing among it, is passed over."""

    def act(transport, _):
        transport.close()
        assert transport.is_closing()
        transport.write(b"late")
        transport.close()

    assert told(act) == ["eof", "ended"]


def test_a_lost_connection_is_not_written_to():
    """What was held back when the connection went away is dropped."""

    def act(transport, below):
        transport.write(b"late")
        below.closing = True

    assert told(act) == []


def test_all_else_is_the_transport_itself():
    """What does not write is asked of the transport below."""
    assert told(lambda transport, below: below.told.append(transport.is_closing())) == [False]
