"""A loaded model is only served if probe texts have the vectors that are promised."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from embeddings_gateway.backends.base import EmbedError
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.fault import FaultBackend
from embeddings_gateway.backends.selftest import PROBES, SelfTest
from embeddings_gateway.backends.spec import FakeSpec, FaultSpec


class Answering(FakeBackend):
    """The fake backend, one of its outputs changed by a function of it and of the batch's size."""

    def __init__(self, change, output="dense", **facts):
        super().__init__(FakeSpec(outputs=(output,)))
        self.info = msgspec.structs.replace(self.info, **facts)
        self._change = change

    def run(self, batch, outputs):
        """See :class:`embeddings_gateway.backends.base.Backend`."""
        columns = super().run(batch, outputs)
        return {output: self._change(column, len(batch)) for output, column in columns.items()}


def dense(change):
    """Return a change of a column from one of its values."""
    return lambda column, inputs: dataclasses.replace(column, values=change(column.values, inputs))


def out_of_memory(_column, _inputs):
    """Fail as an engine does."""
    raise EmbedError("out of memory")


PROBES_RUNS = len(PROBES) + 1
ALL = ("dense", "sparse", "multi_vector", "score")


@pytest.mark.parametrize(
    "spec",
    [
        FakeSpec(),
        FakeSpec(max_tokens=3),
        FakeSpec(max_batch_tokens=1),
        FakeSpec(max_batch_tokens=100, cost="packed"),
        FaultSpec(),
        FakeSpec(outputs=ALL, labels=2),
        FakeSpec(outputs=ALL, max_tokens=3),
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
    "beside": (lambda values, inputs: values + (inputs > 1) * 0.1 * values[::-1], "cosine"),
    "order": (lambda values, inputs: values[::-1], "cosine"),
    "nan": (lambda values, inputs: values * np.nan, "finite"),
    "zero": (lambda values, inputs: values * 0, "zero"),
    "length": (lambda values, inputs: values * 2, "unit"),
    "short": (lambda values, inputs: values[:-1], "entries"),
    "narrow": (lambda values, inputs: values[:, :-1], "width"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_vectors(kind):
    """A model with wrong vectors fails, with the reason."""
    change, says = WRONG[kind]
    assert says in SelfTest(Answering(dense(change), normalized=kind != "beside")).run()


def test_failing():
    """A model that raises on the probes fails, with its message."""
    assert "out of memory" in SelfTest(Answering(out_of_memory)).run()


def replaced(**parts):
    """Return a change of a column that replaces some of its parts, each by a function of the column."""
    return lambda column, _: dataclasses.replace(
        column, **{name: part(column) for name, part in parts.items()}
    )


def apart(change):
    """Return a change of a column that only batches of several inputs suffer."""
    return lambda column, inputs: change(column, inputs) if inputs > 1 else column


WRONG_COLUMNS = [
    ("sparse", replaced(indices=lambda column: column.indices + 258), "outside"),
    ("sparse", replaced(indices=lambda column: column.indices * 0), "twice"),
    ("sparse", replaced(indices=lambda _: None), "parts"),
    ("sparse", replaced(values=lambda column: column.values * np.nan), "finite"),
    ("sparse", apart(replaced(values=lambda column: column.values[::-1])), "cosine"),
    ("sparse", apart(replaced(indices=lambda column: column.indices ^ 1)), "weights"),
    ("sparse", replaced(offsets=lambda column: column.offsets + 1), "ascend"),
    ("multi_vector", replaced(offsets=lambda _: None), "parts"),
    ("multi_vector", replaced(offsets=lambda column: column.offsets[::-1]), "ascend"),
    ("multi_vector", replaced(values=lambda column: column.values[:, :-1]), "width"),
    ("multi_vector", replaced(values=lambda column: column.values * 0), "zero"),
    ("multi_vector", apart(replaced(values=lambda column: column.values[::-1])), "cosine"),
    ("score", replaced(values=lambda column: column.values[:, :0]), "width"),
    ("score", replaced(values=lambda column: column.values * np.inf), "finite"),
    ("score", apart(replaced(values=lambda column: column.values + np.float32(1e-3))), "scores"),
]


@pytest.mark.parametrize(("output", "change", "says"), WRONG_COLUMNS, ids=range(len(WRONG_COLUMNS)))
def test_wrong_columns(output, change, says):
    """A model with a wrong column of another output fails, with the reason."""
    assert says in SelfTest(Answering(change, output)).run()


def test_any_length():
    """A model that does not state unit length may have any."""
    assert SelfTest(Answering(dense(lambda vectors, _: 9 * vectors), normalized=False)).run() == ""


def test_no_room():
    """A token limit that special tokens fill alone fails, with the reason."""
    assert "2 special tokens" in SelfTest(Answering(lambda column, _: column, max_tokens=2)).run()


def test_unknown_characters():
    """A vocabulary that has no token for any probe fails, with the reason."""
    assert "no token" in SelfTest(Answering(lambda column, _: column, vocabulary_size=9)).run()


def test_coarser_promise():
    """The tolerance depends on the dtype: a difference that is too large for fp32 passes for 8 bits."""
    rng = np.random.default_rng(0)
    noisy = Answering(dense(lambda vectors, _: vectors + 0.004 * rng.standard_normal(vectors.shape)))
    assert SelfTest(noisy).run()
    noisy.info = msgspec.structs.replace(noisy.info, dtype="q8_0")
    assert SelfTest(noisy).run() == ""


def changing(times):
    """Return a test of a model that gives other vectors after so many batches."""
    runs = 0

    def change(values, inputs):
        nonlocal runs
        runs += 1
        return values if runs <= times else np.roll(values, 1, axis=1)

    return SelfTest(Answering(dense(change), max_batch_tokens=2**20))


def test_other_vectors_than_before():
    """A model that gives other vectors than when it was loaded fails, although it agrees with itself."""
    test = changing(PROBES_RUNS)
    assert test.run() == ""
    assert "what they gave before" in test.run()
    assert "what they gave before" in test.run_first()


def test_one_probe():
    """One probe is enough to see that a model still gives what it gave."""
    test = changing(PROBES_RUNS + 1)
    assert test.run() == ""
    assert test.run_first() == ""
    assert "what they gave before" in test.run_first()


def test_engine_that_fails_on_one_probe():
    """A model that fails on the probe says so."""
    test = SelfTest(Answering(out_of_memory))
    assert "fails on a probe text" in test.run_first()
