"""When a worker has to be taken for hung, and which of its calls may have done it."""

from __future__ import annotations

import pytest

from embeddings_gateway.backends.protocol import Check, Embed, PackedIds, Ping, Tokenize
from embeddings_gateway.workers.vigil import Patience, Vigil


def embed(call_id):
    """Return a batch."""
    return Embed(call_id, PackedIds(b"", b""))


def ticks_until_hung(vigil, answering=False):
    """Return how many ticks pass until the worker is taken for hung."""
    for count in range(1, 1000):
        if answering:
            vigil.end(999)
        if vigil.tick():
            return count
    return None


def test_silence():
    """A process that answers nothing at all is hung after ten seconds, or its patience if that is less."""
    assert ticks_until_hung(Vigil(Patience(hang_s=30))) == 11
    short = Vigil(Patience(hang_s=2))
    assert short.tick_s == pytest.approx(0.2)
    assert ticks_until_hung(short) == 11


def test_idle():
    """One that answers its pings and has nothing to do never is."""
    vigil = Vigil(Patience())
    vigil.begin(Ping(1), 0)
    assert ticks_until_hung(vigil, answering=True) is None
    assert vigil.suspects() == set()


@pytest.mark.parametrize("call", [embed(1), Check(1), Tokenize(1, ["a"])], ids=["batch", "check", "texts"])
def test_call_that_takes_too_long(call):
    """A call that takes longer than it may is hung although pings are answered."""
    vigil = Vigil(Patience())
    vigil.begin(call, 20)
    assert ticks_until_hung(vigil, answering=True) == 21
    assert vigil.suspects() == {1}


def test_who_is_suspect():
    """Of batches only the one that hangs; of texts all, for they wait for one another."""
    for late, suspects in ((embed(1), {1}), (Tokenize(1, ["a"]), {0, 1})):
        vigil = Vigil(Patience())
        vigil.begin(Tokenize(0, ["a"]), 1000)
        vigil.begin(late, 20)
        ticks_until_hung(vigil, answering=True)
        assert vigil.suspects() == suspects


def test_second_batch():
    """A batch that waits behind another one does not age, and is no suspect."""
    vigil = Vigil(Patience())
    vigil.begin(embed(1), 20)
    vigil.begin(embed(2), 20)
    assert [vigil.tick() for _ in range(9)] == [""] * 9
    assert vigil.suspects() == {1}
    vigil.end(1)
    assert vigil.suspects() == {2}
    assert ticks_until_hung(vigil, answering=True) == 21


def test_texts_beside_a_batch():
    """Texts are tokenized while a batch is computed: both are suspects."""
    vigil = Vigil(Patience())
    for call in (Tokenize(1, ["a"]), embed(2), embed(3), Tokenize(4, ["b"])):
        vigil.begin(call, 20)
    assert vigil.suspects() == {1, 2, 4}


def test_gateway_held_up():
    """However long the gateway was held up itself, that is one tick."""
    vigil = Vigil(Patience(hang_s=30))
    vigil.begin(embed(1), 1.5)
    assert vigil.tick() == ""
