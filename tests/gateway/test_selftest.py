"""A loaded model is only served if probe texts have the vectors that are promised."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from embeddings_gateway.backends.base import EmbedError
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.fault import FaultBackend
from embeddings_gateway.backends.selftest import SelfTest
from embeddings_gateway.backends.spec import FakeSpec, FaultSpec


class Answering(FakeBackend):
    """The fake backend, its vectors changed by a function of them and of the batch's size."""

    def __init__(self, change, **facts):
        super().__init__(FakeSpec())
        self.info = msgspec.structs.replace(self.info, **facts)
        self._change = change

    def embed(self, batch):
        """See :class:`embeddings_gateway.backends.base.Backend`."""
        return self._change(super().embed(batch), len(batch))


def out_of_memory(_vectors, _inputs):
    """Fail as an engine does."""
    raise EmbedError("out of memory")


@pytest.mark.parametrize(
    "spec",
    [
        FakeSpec(),
        FakeSpec(max_tokens=3),
        FakeSpec(max_batch_tokens=1),
        FakeSpec(max_batch_tokens=100, cost="packed"),
        FaultSpec(),
    ],
    ids=repr,
)
def test_right(spec):
    """A model that keeps its promises passes, whatever its limits."""
    backend = FaultBackend(spec) if isinstance(spec, FaultSpec) else FakeBackend(spec)
    test = SelfTest(backend)
    assert test.run() == ""
    assert test.tokens_per_s() > 0


WRONG = {
    "company": (lambda vectors, inputs: vectors + (inputs > 1) * 0.1 * vectors[::-1], "cosine"),
    "order": (lambda vectors, inputs: vectors[::-1], "cosine"),
    "nan": (lambda vectors, inputs: vectors * np.nan, "finite"),
    "zero": (lambda vectors, inputs: vectors * 0, "zero"),
    "length": (lambda vectors, inputs: vectors * 2, "unit"),
    "short": (lambda vectors, inputs: vectors[:-1], "not ("),
    "narrow": (lambda vectors, inputs: vectors[:, :-1], "not ("),
    "failing": (out_of_memory, "out of memory"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong(kind):
    """A model that breaks one is told by what it breaks."""
    change, says = WRONG[kind]
    assert says in SelfTest(Answering(change, normalized=kind != "company")).run()


def test_any_length():
    """A model that does not state unit length may have any."""
    assert SelfTest(Answering(lambda vectors, _: 9 * vectors, normalized=False)).run() == ""


def test_no_room():
    """A limit that the special tokens alone fill is told as such."""
    assert "2 special tokens" in SelfTest(Answering(lambda vectors, _: vectors, max_tokens=2)).run()


def test_unknown_characters():
    """A vocabulary that has no token for any probe cannot be tested, and is told so."""
    assert "no token" in SelfTest(Answering(lambda vectors, _: vectors, vocabulary_size=9)).run()


def test_coarser_promise():
    """What is promised depends on the dtype: an answer that fp32 must not give is right for 8 bits."""
    rng = np.random.default_rng(0)
    noisy = Answering(lambda vectors, _: vectors + 0.004 * rng.standard_normal(vectors.shape))
    assert SelfTest(noisy).run()
    noisy.info = msgspec.structs.replace(noisy.info, dtype="q8_0")
    assert SelfTest(noisy).run() == ""
